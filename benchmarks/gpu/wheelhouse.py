"""Gather the wheels that a machine without a network lacks, on one that has it, for the other one's Python.

    python benchmarks/gpu/wheelhouse.py WHEELS REQUIREMENT... [--present FILE] [--without NAME,...] [--python 3.12]
                                        [--glibc 2.39]

    python benchmarks/gpu/wheelhouse.py visit/wheels ".[http,search,train,eval]" "vllm==0.25.1" --present there.txt

A requirement is a name with or without a version, or a folder of source, which is built. ``FILE`` is what
``python -m pip list --format=freeze`` prints there; a bare name counts as any version. What is present in a version
that does is left out, with all that it needs: so CUDA's libraries stay where they are. The wheels of one call fit
together and are meant for ``pip install --no-index --no-deps``; others are removed from the folder. Ends with an error
where an index has no wheel, or where two ask for versions that cannot be met together.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

_OLDEST_GLIBC = 17


@dataclass
class Wheelhouse:
    """Wheels for one Python in one folder."""

    folder: Path
    python: str
    glibc: int
    present: dict[str, str | None]
    """Name to version on the other machine, None where any does."""
    asked: dict[str, list[str]] = field(default_factory=dict)
    """Name to who asks for which version of it."""
    specifiers: dict[str, SpecifierSet] = field(default_factory=dict)
    wheels: dict[str, Path] = field(default_factory=dict)
    """By canonical name."""

    def add(self, requirement: Requirement, *, by: str = "the command line") -> None:
        """The wheel of ``requirement`` and those of all that it needs there."""
        name = canonicalize_name(requirement.name)
        self.asked.setdefault(name, []).append(f"{requirement.specifier or 'any'} by {by}")
        wanted = self.specifiers.get(name, SpecifierSet()) & requirement.specifier
        known = name in self.wheels and wanted.contains(
            parse_wheel_filename(self.wheels[name].name)[1], prereleases=True
        )
        self.specifiers[name] = wanted
        if not known:
            if self._is_present(name, wanted):
                return
            self.put(self._download(f"{name}{wanted}"), requirement.extras)
        elif requirement.extras:
            self._needs_of(self.wheels[name], requirement.extras)

    def put(self, wheel: Path, extras: set[str]) -> None:
        """A wheel that is in the folder, in place of another version of it, and what it needs."""
        name = canonicalize_name(parse_wheel_filename(wheel.name)[0])
        if (before := self.wheels.get(name)) not in (None, wheel):
            before.unlink()
        self.wheels[name] = wheel
        print(f"{wheel.name}  {wheel.stat().st_size / 2**20:.1f} MiB", flush=True)
        self._needs_of(wheel, extras)

    def build(self, source: str) -> tuple[Path, set[str]]:
        """The wheel of a folder of source, such as ``.[search]``, and its extras."""
        place, _, extras = source.partition("[")
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            if error := _pip("wheel", "--no-deps", "--wheel-dir", scratch, place):
                sys.exit(f"Expected to build {place}, found: {error}")
            (built,) = Path(scratch).glob("*.whl")
            wheel = built.rename(self.folder / built.name)
        return wheel, {extra.strip() for extra in extras.rstrip("]").split(",") if extra}

    def _needs_of(self, wheel: Path, extras: set[str]) -> None:
        for needed in needs(wheel, extras, python=self.python):
            self.add(needed, by=wheel.name)

    def _is_present(self, name: str, wanted: SpecifierSet) -> bool:
        version = self.present.get(name, "")
        return version is None or (version != "" and wanted.contains(version, prereleases=True))

    def _download(self, requirement: str) -> Path:
        # pip takes each platform by its letter: a wheel for glibc 2.31 is not found under 2.39.
        platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(self.glibc, _OLDEST_GLIBC - 1, -1)]
        platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
        target = ["--python-version", self.python, "--implementation", "cp", "--only-binary", ":all:"]
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            error = _pip(
                *("download", "--no-deps", "--dest", scratch, *target),
                *(word for platform in platforms for word in ("--platform", platform)),
                requirement,
            )
            if error:  # it may be there as source alone; a wheel of pure Python, made here, is one for there
                _pip("wheel", "--no-deps", "--wheel-dir", scratch, requirement)
            found = [
                wheel for wheel in Path(scratch).glob("*.whl") if not error or wheel.name.endswith("-none-any.whl")
            ]
            if not found:
                sys.exit(
                    f"Expected a wheel of {requirement} for Python {self.python}, found: {error}\nAsked for are "
                    f"{'; '.join(self.asked[canonicalize_name(Requirement(requirement).name)])}.\nWhere these cannot "
                    "be met together, name another version of one of those that ask, before the others."
                )
            return found[0].rename(self.folder / found[0].name)


def _pip(*arguments: str) -> str:
    """What pip says of a failure; nothing when all went well."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    return done.stderr.strip() or "a failure" if done.returncode else ""


def needs(wheel: Path, extras: set[str], *, python: str) -> Iterator[Requirement]:
    """What ``wheel`` needs on Linux with an x86-64 processor."""
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    there = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
    }
    for line in metadata.get_all("Requires-Dist") or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(
            requirement.marker.evaluate({**there, "extra": extra}) for extra in ("", *extras)
        ):
            yield requirement


def read_present(path: Path) -> dict[str, str | None]:
    """Names and versions, one a line."""
    found: dict[str, str | None] = {}
    for line in path.read_text().split():
        name, _, version = line.partition("==")
        found[canonicalize_name(name)] = version or None
    return found


def main() -> None:
    """Gather everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, metavar="WHEELS")
    parser.add_argument("requirements", nargs="+", metavar="REQUIREMENT")
    parser.add_argument("--python", default="3.12", help="there (3.12)")
    parser.add_argument("--present", type=Path, metavar="FILE", help="what is installed there")
    parser.add_argument("--without", default="", metavar="NAME,...", help="what it will do without")
    parser.add_argument("--glibc", default="2.39", help="there (2.39)")
    asked = parser.parse_args()
    asked.wheels.mkdir(parents=True, exist_ok=True)
    house = Wheelhouse(
        folder=asked.wheels,
        python=asked.python,
        glibc=int(asked.glibc.partition(".")[2]),
        present={
            **(read_present(asked.present) if asked.present else {}),
            **{canonicalize_name(name): None for name in asked.without.split(",") if name},
        },
    )
    for word in asked.requirements:
        if Path(word.partition("[")[0]).is_dir():
            house.put(*house.build(word))
        else:
            house.add(Requirement(word))
    for stranger in set(asked.wheels.glob("*.whl")) - set(house.wheels.values()):
        stranger.unlink()  # of an earlier call: two versions of one package cannot be installed together
    total = sum(wheel.stat().st_size for wheel in house.wheels.values())
    print(f"{len(house.wheels)} wheels, {total / 2**20:.0f} MiB, in {asked.wheels}")


if __name__ == "__main__":
    main()
