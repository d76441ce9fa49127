"""The clients that ``http_clients.py`` runs: what each is asked, and which lines of its output prove the answer.

Commands are bash scripts. Their variables: ``URL`` of the server (or of nginx in front of it), ``MODEL`` its served
name, ``TOKENIZER`` the checkpoint's folder, ``PYTHON``, ``GUIDELLM`` and ``GENAI_BENCH`` programs. They start in a
folder with ``ledger.txt``, ``chat.json`` (a streaming request that holds it, about 9,400 tokens) and ``long.json``
(27 MB).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """One client: regular expressions in ``proof`` have to match lines of its output, each at least one."""

    name: str
    version: str
    command: str
    proof: tuple[str, ...]
    clocked: bool = False
    """Whether the page says when each line arrived."""
    through_nginx: bool = False


_JSON = "-H 'Content-Type: application/json'"

STREAM = f"""curl -sSN $URL/v1/chat/completions {_JSON} -d @chat.json
echo --- again
curl -sSN $URL/v1/chat/completions {_JSON} -d @chat.json"""

FILES = f"""curl -sS $URL/v1/files -F purpose=user_data -F file=@ledger.txt | tee uploaded.json; echo
id=$(grep -o 'file-[0-9a-f]*' uploaded.json)
curl -sS $URL/v1/chat/completions {_JSON} -d '{{"model": "'$MODEL'", "max_tokens": 8, "messages": [
  {{"role": "user", "content": [
    {{"type": "file", "file": {{"file_id": "'$id'"}}}},
    {{"type": "text", "text": "What did the keeper count?"}}]}}]}}'; echo
curl -sS -X DELETE $URL/v1/files/$id; echo"""

OPENAI = """$PYTHON - <<'END'
import os
from openai import OpenAI

client = OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", timeout=3600, max_retries=0)
model = os.environ["MODEL"]
asked = {"model": model, "messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 12}

answer = client.chat.completions.create(**asked)
print("chat:", repr(answer.choices[0].message.content), answer.usage.completion_tokens)
chunks = list(client.chat.completions.create(**asked, stream=True, extra_body={"return_progress": True}))
print("chat, stream:", repr("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)))
print("chat, progress:", [chunk.prompt_progress for chunk in chunks if hasattr(chunk, "prompt_progress")][-1])

answer = client.completions.create(model=model, prompt="The sea is", max_tokens=8, temperature=0)
print("completions:", repr(answer.choices[0].text), answer.usage.completion_tokens)
stream = client.completions.create(model=model, prompt="The sea is", max_tokens=8, temperature=0, stream=True)
print("completions, stream:", repr("".join(choice.text for chunk in stream for choice in chunk.choices)))

answer = client.responses.create(model=model, input="Name three colours.", max_output_tokens=16, temperature=0)
print("responses:", repr(answer.output_text), answer.usage.input_tokens, answer.usage.output_tokens)
stream = client.responses.create(model=model, input="Name three colours.", max_output_tokens=16, temperature=0,
                                 stream=True)
print("responses, stream:", repr("".join(event.delta for event in stream if event.type.endswith("text.delta"))))

file = client.files.create(file=("note.txt", b"The lamp is green. " * 20), purpose="user_data")
part, question = {"type": "file", "file": {"file_id": file.id}}, {"type": "text", "text": "What colour is the lamp?"}
asked["messages"] = [{"role": "user", "content": [part, question]}]
print("files, chat:", repr(client.chat.completions.create(**asked).choices[0].message.content))
content = [{"type": "input_file", "file_id": file.id}, {"type": "input_text", "text": "What colour is the lamp?"}]
answer = client.responses.create(model=model, input=[{"role": "user", "content": content}], max_output_tokens=16,
                                 temperature=0)
print("files, responses:", repr(answer.output_text), answer.usage.input_tokens)
listed = file.id in [each.id for each in client.files.list()]
print("files:", listed, len(client.files.content(file.id).content), client.files.delete(file.id).deleted)
END"""
OPENAI_PROOF = (
    r"^chat: \S.* \d+$",
    r"^chat, stream: \S.*$",
    r"^chat, progress: \{.*'processed': [1-9]",
    r"^completions: \S.* \d+$",
    r"^completions, stream: \S.*$",
    r"^responses: \S.* \d+ \d+$",
    r"^responses, stream: \S.*$",
    r"^files, chat: \S.*$",
    r"^files, responses: \S.* \d{3}$",
    r"^files: True 380 True$",
)

BENCH_SERVE = """$PYTHON -c 'from argparse import ArgumentParser
from vllm.benchmarks.serve import add_cli_args, main
parser = ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())' --backend openai-chat --base-url $URL --endpoint /v1/chat/completions --model $MODEL \\
  --tokenizer $TOKENIZER --dataset-name random --random-input-len 100 --random-output-len 8 --num-prompts 3 \\
  --max-concurrency 1 --disable-tqdm"""

GUIDELLM = """$GUIDELLM run --backend kind=openai_http,target=$URL,model=$MODEL \\
  --tokenizer kind=hf_auto,model=$TOKENIZER \\
  --profile kind=synchronous --constraint kind=max_requests,count=2 \\
  --data kind=synthetic_text,prompt_tokens=100,output_tokens=8 --disable-console-interactive --output kind=json
$PYTHON -c 'import glob, json
totals = json.load(open(glob.glob("*benchmark*.json")[0]))["benchmarks"][0]["metrics"]["request_totals"]
print("requests:", totals)'"""

GENAI_BENCH = """$GENAI_BENCH benchmark --api-backend openai --api-base $URL --api-key none --api-model-name $MODEL \\
  --model-tokenizer $TOKENIZER --task text-to-text --max-time-per-run 1 --max-requests-per-run 2 --num-concurrency 1 \\
  --traffic-scenario "D(100,8)" --experiment-base-dir genai > genai.log 2>&1 || cat genai.log
$PYTHON -c 'import glob, json
found = json.load(open(glob.glob("genai/*/D100_8*.json")[0]))["aggregated_metrics"]
print({name: found[name] for name in ("num_completed_requests", "num_error_requests")})
stats = found["stats"]
print({name: stats[name]["mean"] for name in ("num_input_tokens", "num_output_tokens")})'"""

LM_EVAL = """cat > facts.jsonl <<'END'
{"question": "The capital of France is", "choices": [" Paris", " cheese"], "gold": 0}
{"question": "Water freezes at zero degrees", "choices": [" Celsius", " bananas"], "gold": 0}
END
cat > facts.yaml <<'END'
task: facts
dataset_path: json
dataset_kwargs: {data_files: {test: facts.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
END
$PYTHON -m lm_eval --model local-completions --include_path . --tasks facts --model_args \\
  model=$MODEL,base_url=$URL/v1/completions,tokenizer=$TOKENIZER,max_length=16384,timeout=3600"""

ASK = """$PYTHON -m longrope_vllm.cli.main ask ledger.txt "What did the keeper count?" --url $URL --max-tokens 12"""

LONG_BODY = f"""ls -l long.json | awk '{{print $5, "bytes"}}'
curl -sS -w '\\nHTTP %{{http_code}} in %{{time_total}} s\\n' $URL/v1/chat/completions {_JSON} \\
  --data-binary @long.json"""

PATIENCE = f"""curl -sS -w '\\nHTTP %{{http_code}} after %{{time_total}} s of silence\\n' $URL/v1/completions \\
  {_JSON} -H 'X-Request-Id: patient-7' \\
  -d '{{"model": "'$MODEL'", "prompt": "The sea is", "max_tokens": 1600, "ignore_eos": true}}' > patient.txt &
sleep 3; curl -sS $URL/v1/requests/patient-7; echo
wait; tail -1 patient.txt"""

LEFT = f"""curl -sS -m 4 -H 'X-Request-Id: impatient-7' $URL/v1/completions {_JSON} \\
  -d '{{"model": "'$MODEL'", "prompt": "The sea is", "max_tokens": 1600, "ignore_eos": true}}' 2>&1
sleep 3; curl -sS $URL/v1/requests/impatient-7; echo"""

_CURL = "curl --version | head -1 | cut -d' ' -f1,2"
_OPENAI = "$PYTHON -c 'import openai; print(\"openai\", openai.__version__)'"
_LONGROPE = '$PYTHON -c \'from importlib.metadata import version; print("longrope-vllm", version("longrope-vllm"))\''
_VLLM = "$PYTHON -c 'import vllm; print(\"vLLM\", vllm.__version__)' 2>/dev/null | tail -1"
_LM_EVAL = '$PYTHON -c \'from importlib.metadata import version; print("lm_eval", version("lm_eval"))\''

_PROGRESS = (
    r'"prompt_progress": \{"total": \d+, "cache": 0, ',
    r"^--- again$",
    r'"cached_tokens":[1-9]\d{3}',
    r'"usage":',
)
_ASKED = (r"^ledger\.txt, [\d,]+ tokens", r"^\w", r"^prompt .*answer 12 .*tier 16k")

CLIENTS = (
    Client("curl, a long prompt as a stream, twice", _CURL, STREAM, _PROGRESS, clocked=True),
    Client(
        "curl, a file",
        _CURL,
        FILES,
        (r'"object": ?"file".*"tokens"', r'"usage":.*"prompt_tokens":\d{4}', r'"deleted": ?true'),
    ),
    Client("openai SDK", _OPENAI, OPENAI, OPENAI_PROOF),
    Client(
        "vllm bench serve",
        _VLLM,
        BENCH_SERVE,
        (r"^Successful requests: +3", r"^Failed requests: +0", r"^Total generated tokens: +\d", r"^Mean TTFT"),
    ),
    Client("guidellm", "$GUIDELLM --version", GUIDELLM, (r"^requests: .*'successful': 2, .*'errored': 0",)),
    Client(
        "genai-bench",
        "$GENAI_BENCH --version 2>/dev/null",
        GENAI_BENCH,
        (r"'num_completed_requests': [1-9]\d*, 'num_error_requests': 0", r"'num_output_tokens': 8\b"),
    ),
    Client("lm-eval, local-completions", _LM_EVAL, LM_EVAL, (r"Metric.*Value", r"^\|facts.*acc")),
    Client("longrope ask", _LONGROPE, ASK, _ASKED),
    Client("curl behind nginx, a stream", _CURL, STREAM, _PROGRESS, clocked=True, through_nginx=True),
    Client("openai SDK behind nginx", _OPENAI, OPENAI, OPENAI_PROOF, through_nginx=True),
    Client("longrope ask behind nginx", _LONGROPE, ASK, _ASKED, through_nginx=True),
    Client(
        "curl behind nginx, a body of 27 MB",
        _CURL,
        LONG_BODY,
        (r"^27\d{6} bytes$", r"context_length_exceeded", r"^HTTP 400 in"),
        through_nginx=True,
    ),
    Client(
        "curl behind nginx, more than a minute without a byte",
        _CURL,
        PATIENCE,
        (r'"state": ?"generating"', r"^HTTP 200 after ([6-9]\d|\d{3,})\.\d+ s"),
        through_nginx=True,
    ),
    Client(
        "curl behind nginx, a client that leaves",
        _CURL,
        LEFT,
        (r"^curl: .*timed out", r'"state": ?"aborted"'),
        through_nginx=True,
    ),
)
