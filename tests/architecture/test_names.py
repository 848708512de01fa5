"""Functions are verbs: new public ones must not be named by a participle, or by one word that is no verb.

What was there before the rule stands in ``names_allowed.txt``, one ``module:function`` a line. The list may only become
shorter: an entry whose function is gone, or is named well by now, fails the test until it is deleted.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("llm_engineering", "steps", "pipelines", "tools")
ALLOWED = Path(__file__).with_name("names_allowed.txt")
DOCUMENTED = 0.89
"""Least share of public modules, classes, functions and methods with a docstring: what was reached, rounded down."""

VERBS = frozenset(
    """analyse correct
    decline accept add align allow annotate answer append apply archive ask assert attach await batch begin bind build cache
    calculate call cancel canonicalise chat check choose chunk claim classify clean clear close collect compare compile
    complete compose compress compute configure connect convert copy count cover create curate decide decode decontaminate delete
    deliver
    describe deserialise detect discard discover download draw drop dump embed emit encode ensure enter erase escape estimate
    evaluate exit expand explain export expire extract fail fetch fill filter find finish fit flush follow forget format
    fuse gather generate get group guard handle hash identify import index infer insert install interleave invoke join
    judge keep label launch lint list listen load locate lock lower main map mark mask match measure merge mix move name
    narrow normalise note notify open order pack pad parse pass patch pick plan plot prepare present print process promote propose
    prove prune publish pull push put query quote raise rank read rebuild receive recommend record redact refuse register
    release reload remember remove rename render renumber repair repeat replace report request require rerank rescue reserve
    reset resolve respond restore restyle resume retrieve retry return revise rewrite roll rollback route run sample save scan
    score scrub search select send serialise serve set shorten show shut shutdown sign skip sort split spread start stem stop
    store stream strip submit subtract summarise supervise sync tag take tell test tokenise trace track train transfer
    transform translate trim truncate undo unload unpack update upload upsert use validate verify wait walk warm watch
    widen wrap write approve question reject supersede cites rests
    abstains accepts advance allows assign calibrate consider continues covers end exceeds exclude feed forward interrupt
    introduce issue kill leads leave link log matches opens pause ping poll protect quit reads recognise refresh replay retire
    advise confirm deploy disconnect reuse revoke scroll see settle simulate stitch sweep vote""".split()
)
"""Words that are verbs, and may stand alone; of the third person those that ask a question. Add what is missing."""
_NO_PARTICIPLES = frozenset("embed exceed feed need proceed read seed shed speed spread succeed".split())
_IRREGULAR = frozenset(
    """asked begun bound bought brought built chosen cut done drawn driven fallen felt found given gone grown heard held
    hidden kept known laid led left lent lost made meant met paid put_aside said seen sent set_aside shown slept sold spent
    spoken stood sunk taken taught thought told torn understood won worn written""".split()
)


def is_participle(word: str) -> bool:
    """Whether a word says how something came about, and not what it is or does."""
    return word in _IRREGULAR or (
        len(word) > 4 and word.endswith("ed") and word not in _NO_PARTICIPLES and word not in VERBS
    )


def is_badly_named(function: str) -> bool:
    """Whether a function's name is a participle, or one word that is no verb."""
    words = function.split("_")
    if len(words) == 1:
        return function not in VERBS
    return is_participle(words[0])


def public_functions(source: str) -> Iterator[str]:
    """Yield public functions and methods of a module, nested classes included.

    Properties are nouns, and so are ZenML's pipelines, which are called by their names: both are left out.
    """
    yield from _functions(ast.parse(source), "")


def _functions(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif (
            isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            and not child.name.startswith("_")
            and not any(map(_makes_an_attribute, child.decorator_list))
        ):
            yield f"{prefix}{child.name}"


def _makes_an_attribute(decorator: ast.expr) -> bool:
    return bool(re.search(r"property|setter|\.pipeline\b|^pipeline\b|\bpipeline\(", ast.unparse(decorator)))


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def offenders() -> set[str]:
    found = set()
    for path in modules():
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for function in public_functions(path.read_text(encoding="utf-8")):
            if is_badly_named(function.rpartition(".")[2]):
                found.add(f"{module}:{function}")
    return found


def allowed() -> list[str]:
    return ALLOWED.read_text(encoding="utf-8").split()


def test_new_public_functions_are_verbs() -> None:
    assert sorted(offenders() - set(allowed())) == []


def test_the_list_of_exceptions_only_shrinks() -> None:
    assert sorted(set(allowed()) - offenders()) == []
    assert allowed() == sorted(set(allowed()))


def test_what_counts_as_badly_named() -> None:
    bad = ("told", "explained", "chosen", "shown_link", "documents", "provenance", "nearness")
    good = ("read", "embed", "clean_documents", "newest_dataset", "is_loopback", "judge", "feed_rows")
    assert [name for name in bad if not is_badly_named(name)] == []
    assert [name for name in good if is_badly_named(name)] == []


def test_methods_count_and_properties_do_not() -> None:
    source = """
def told(): ...
def _kept(): ...
class A:
    def shown(self): ...
    @property
    def name(self): ...
    class B:
        async def asked(self): ...
"""
    assert list(public_functions(source)) == ["told", "A.shown", "A.B.asked"]


def docstring_share() -> float:
    """Return the share of public modules, classes, functions and methods that have a docstring."""
    documented = total = 0
    for path in modules():
        nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while nodes:
            node = nodes.pop()
            total += 1
            documented += ast.get_docstring(node) is not None  # type: ignore[arg-type]
            if isinstance(node, ast.Module | ast.ClassDef):
                nodes += [
                    child
                    for child in node.body
                    if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                    and not child.name.startswith("_")
                ]
    return documented / total


def test_most_of_what_is_public_is_explained() -> None:
    assert docstring_share() >= DOCUMENTED
