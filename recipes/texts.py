"""Three kinds of text, each in two parts that share nothing: one to search and to train on, one to measure on.

    python recipes/texts.py OUT

    OUT/train/prose.txt      the King James text up to Job          OUT/held_out/prose.txt    from the Psalms on
    OUT/train/manual.txt     Django's guides and release notes      OUT/held_out/manual.txt   its reference
    OUT/train/code.txt       the standard library of Python         OUT/held_out/code.txt     Django's source

Each has at least 550,000 tokens. Needs the program ``bible`` (Debian's package bible-kjv) and a package index. The
texts are public domain, of the Python licence and of the BSD licence. A machine without a network takes the folder as
it was made elsewhere.
"""

import hashlib
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

DJANGO = "Django==5.2.8"
_SHA256 = "23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f"


def main() -> None:
    """Write all six, or none."""
    if len(sys.argv) != 2:
        sys.exit(f"Expected the folder to write, found {len(sys.argv) - 1} arguments: python recipes/texts.py OUT")
    out = Path(sys.argv[1])
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        django = _django(Path(scratch))
        guides = [django / "docs" / name for name in ("topics", "howto", "intro", "internals", "releases")]
        texts = {
            "train/prose.txt": _bible("Gen1:1-Job42:17"),
            "train/manual.txt": _joined(guides, "**/*.txt"),
            "train/code.txt": _joined([Path(sysconfig.get_path("stdlib"))], "*.py"),
            "held_out/prose.txt": _bible("Psa1:1-Rev22:21"),
            "held_out/manual.txt": _joined([django / "docs" / "ref"], "**/*.txt"),
            "held_out/code.txt": _joined([django / "django"], "**/*.py"),
        }
        made = Path(scratch) / "texts"
        for name, text in texts.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text, encoding="utf-8")
            print(f"{out / name}: {len(text):,} characters")
        made.rename(out)


def _bible(verses: str) -> str:
    try:
        return subprocess.run(["bible", "-f", verses], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"Expected the text from the program bible, found: {error}. Install Debian's package bible-kjv.")


def _joined(folders: Sequence[Path], pattern: str) -> str:
    files = [file for folder in folders for file in sorted(folder.glob(pattern))]
    return "\n\n".join(file.read_text(encoding="utf-8") for file in files)


def _django(folder: Path) -> Path:
    """The source of Django, with its documentation."""
    command = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), DJANGO]
    if subprocess.run([sys.executable, "-m", "pip", *command], check=False).returncode:
        sys.exit(f"Expected to download {DJANGO} with pip, found the failure above: check the network and try again.")
    (archive,) = folder.glob("*.tar.gz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != _SHA256:
        sys.exit(f"Expected {DJANGO} with SHA-256 {_SHA256}, found {found}: the results would be of another text.")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


if __name__ == "__main__":
    main()
