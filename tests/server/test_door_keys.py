"""The file of keys: written by the command, read by the server, and whatever else may stand in it."""

import stat
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longrope_vllm.cli.main import main
from longrope_vllm.server.doors.key_editing import add_key, remove_key, retire_keys, rotate_key
from longrope_vllm.server.doors.keyring import Keyring, command_line_keys
from longrope_vllm.server.doors.keys_file import KeysFileError, Limits, hash_of, parse_keys, read_keys

SHA = "sha256:" + "0" * 64


class Clock:
    """Tells the time it is set to, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_key_is_printed_once_and_only_its_hash_is_kept(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--file", str(path), "--tokens-per-minute", "2000", "--longest-prompt", "128k", "--admin"]
    assert main(["keys", "add", "alice", *options]) == 0
    key = capsys.readouterr().out.strip()
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (found,) = read_keys(path)
    assert (found.owner, found.hashes, found.admin) == ("key:alice", (hash_of(key),), True)
    assert found.limits == Limits(tokens_per_minute=2000, longest_prompt=131_072)
    assert main(["keys", "list", "--file", str(path)]) == 0
    listed = capsys.readouterr().out
    assert "alice  keys=1  admin  tokens_per_minute=2,000  longest_prompt=128k" in listed
    assert hash_of(key) not in listed


def test_two_keys_are_never_the_same(path: Path) -> None:
    keys = {add_key(path, f"user{number}", limits=Limits(), admin=False) for number in range(5)}
    assert len(keys) == len(read_keys(path)) == 5
    assert min(map(len, keys)) >= 43  # 256 bits in base64


def test_a_rotated_key_works_beside_the_old_one_until_that_is_retired(path: Path) -> None:
    first = add_key(path, "alice", limits=Limits(), admin=False)
    second = rotate_key(path, "alice")
    assert read_keys(path)[0].hashes == (hash_of(first), hash_of(second))
    third = rotate_key(path, "alice")
    assert read_keys(path)[0].hashes == (hash_of(second), hash_of(third))
    retire_keys(path, "alice")
    assert read_keys(path)[0].hashes == (hash_of(third),)
    remove_key(path, "alice")
    assert read_keys(path) == ()


def test_comments_of_the_file_stay(path: Path) -> None:
    add_key(path, "alice", limits=Limits(), admin=False)
    path.write_text("# ours\n" + path.read_text() + "# of the second floor\n")
    add_key(path, "bob", limits=Limits(), admin=False)
    assert path.read_text().startswith("# ours\n")
    assert "# of the second floor" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "alice"], "longrope keys rotate alice"),
        (["add", "a b"], "Expected a name of letters"),
        (["remove", "bob"], "Expected one of alice"),
        (["add", "bob", "--longest-prompt", "long"], "Expected a length"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    arguments: list[str], said: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_key(path, "alice", limits=Limits(), admin=False)
    before = path.read_bytes()
    assert main(["keys", *arguments, "--file", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(mode: int, path: Path) -> None:
    add_key(path, "alice", limits=Limits(), admin=False)
    path.chmod(mode)
    with pytest.raises(KeysFileError, match="only its owner may write"):
        read_keys(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[keys.a]", "hashes as a list"),
        ("[keys.a]\nhashes = []", "hashes as a list"),
        ('[keys.a]\nhashes = ["sk-secret"]', "hashes as a list"),
        (f'[keys.a]\nhashes = ["{SHA}"]\nadmin = 1', "admin to be true or false"),
        (f'[keys.a]\nhashes = ["{SHA}"]\nrequests_per_minute = 0', "requests_per_minute to be a positive number"),
        (f'[keys.a]\nhashes = ["{SHA}"]\nrequests_per_minute = true', "requests_per_minute to be a positive number"),
        (f'[keys.a]\nhashes = ["{SHA}"]\nlongest_prompt = "far"', "stands as longest_prompt"),
        (f'[keys.a]\nhashes = ["{SHA}"]\nrequest_per_minute = 5', "Expected only admin"),
        (f'[keys.a]\nhashes = ["{SHA}"]\n[keys.b]\nhashes = ["{SHA}"]', "each key once"),
        ("[users.a]", "nothing but tables"),
        ("keys = 3", "nothing but tables"),
        ("[keys", "keys in TOML"),
    ],
)
def test_a_slip_in_the_file_is_named(text: str, said: str) -> None:
    with pytest.raises(KeysFileError, match=said):
        parse_keys(text.encode(), source="keys.toml")


VALUES = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=8).map(repr), st.just(f'"{SHA}"'), st.floats()),
    lambda inner: st.lists(inner, max_size=3),
)
LINES = st.one_of(
    st.builds(
        lambda name, value: f"{name} = {value}",
        st.sampled_from(["hashes", "admin", "requests_per_minute", "longest_prompt", "keys", "x"]),
        VALUES,
    ),
    st.text(max_size=20),
    st.sampled_from(["[keys.a]", "[keys.b]", "[keys]", "[[keys]]", "[keys.'a b']", f'hashes = ["{SHA}"]', "[" * 5000]),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(LINES, max_size=8).map(lambda lines: "\n".join(lines).encode())))
@example(b"a = " + b"[" * 20_000)
@example(b"a = " + b"9" * 10_000)
@example(b"a = 2026-99-99")
def test_no_file_is_answered_with_anything_but_keys_or_one_sentence(data: bytes) -> None:
    try:
        keys = parse_keys(data, source="keys.toml")
    except KeysFileError as error:
        assert str(error).startswith("Expected ")  # noqa: PT017
        return
    assert all(key.owner.startswith("key:") and key.hashes for key in keys)


def test_a_removed_key_stops_working_and_a_new_one_works_without_a_restart(path: Path) -> None:
    alice = add_key(path, "alice", limits=Limits(), admin=False)
    clock = Clock()
    keyring = Keyring(path, clock=clock)
    assert keyring.find(alice)
    bob = add_key(path, "bob", limits=Limits(), admin=False)
    remove_key(path, "alice")
    clock.now += 1.0
    found = keyring.find(bob)
    assert keyring.find(alice) is None
    assert found is not None
    assert found.owner == "key:bob"


@pytest.mark.parametrize("slip", ["nonsense", "writable", "gone"])
def test_a_bad_file_keeps_the_keys_and_says_so(slip: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alice = add_key(path, "alice", limits=Limits(), admin=False)
    clock = Clock()
    keyring = Keyring(path, clock=clock)
    if slip == "nonsense":
        path.write_text("[keys")
    elif slip == "writable":
        path.chmod(0o666)
        path.write_bytes(path.read_bytes() + b"\n")
    else:
        path.unlink()
    for _ in range(3):
        clock.now += 1.0
        assert keyring.find(alice)
    assert caplog.text.count("the keys stay as they were") == 1
    assert alice not in caplog.text


def test_the_keys_of_the_command_line_stand_beside_the_file(path: Path) -> None:
    add_key(path, "alice", limits=Limits(), admin=False)
    found = Keyring(path, command_line_keys(["secret"])).find("secret")
    assert found is not None
    assert found.admin
    assert len(found.owner) == 64  # as before there were files: what it uploaded is still its own


def test_an_empty_file_lets_nobody_in(path: Path) -> None:
    path.write_text("")
    path.chmod(0o600)
    keyring = Keyring(path)
    assert not keyring.is_open
    assert keyring.find("") is None
    assert keyring.find("x") is None
