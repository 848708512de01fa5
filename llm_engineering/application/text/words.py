"""Words of a text, made comparable: folded, cut to their roots, without those that carry no content.

For seven languages there are lists of such words. For others the shortest are left out, since function words are short in
nearly every language. Scripts that put no space between words are compared by pairs of characters.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:[.,'’][^\W_]+)*")
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_LISTS = {
    "en": "a about above after again all also although an and any are as at be because been before being between both"
    " but by can could did do does doing down during each either ever every few for from further had has have having he"
    " her here hers him his how however i if in into is it its itself just like made make makes many may me might mine"
    " more most much must my no nor not of off on once one only or other others our out over own per rather same she"
    " should since so some such than that the their them then there therefore these they this those through thus to too"
    " under until up upon us use used uses using very was we well were what when where whether which while who whom"
    " whose why will with within without would yet you your",
    "de": "aber alle allem allen aller alles als also am an auch auf aus bei beim bevor bin bis bist da dabei dadurch"
    " dafür damit danach dann daran darauf daraus darin das dass davon dazu dein dem den denn der deren des dessen dich"
    " die dies diese diesem diesen dieser dieses doch dort du durch ein eine einem einen einer eines er es etwa euch"
    " für gegen hab habe haben hat hatte hatten hier hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im immer in"
    " indem ins ist ja jede jedem jeden jeder jedes jedoch jene kann können könnte man mehr mein mir mit muss müssen"
    " nach neben nicht noch nun nur ob oder ohne schon sehr sein seine seinem seinen seiner seit sich sie sind so"
    " sobald solche soll sollte sondern sowie um und uns unter viel vom von vor war waren was weil welche welcher"
    " welches wenn wer werden wie wieder will wir wird wo wobei wurde wurden während über zu zum zur zwar zwischen",
    "fr": "afin ai alors au aussi autre aux avant avec avoir car ce cela ces cet cette chaque comme comment dans de des"
    " donc dont du elle elles en encore entre est et eux il ils je la le les leur leurs lors lui là mais mes moins mon"
    " même ne ni nos notre nous on ont ou où par parce pas peu peut plus pour puis quand que quel quelle qui quoi sa"
    " sans se ses si son sont sous sur ta te tes ton tous tout toute très tu un une vos votre vous été être",
    "es": "al algo algunas algunos ante antes aquel así aunque cada como con contra cual cuando cómo de del desde donde"
    " dos el ella ellas ellos en entre era es esa ese eso esta este esto están está fue ha han hasta hay la las le les lo"
    " los me mi mientras mucho muy más ni no nos nosotros o otra otro para pero poco por porque pues que quien qué se"
    " según ser si sin sobre son su sus sí también tan tanto te tiene todo todos tu un una uno unos y ya",
    "it": "a ad agli ai al alla alle allo anche ancora che chi ci come con cui da dal dalla delle dei del della dello di"
    " dove e ed era essere fra gli ha hanno ho i il in io la le lei lo loro lui ma mi molto ne nei nel nella no noi non"
    " o ogni per perché più poi quale quando quella quello questa queste questi questo se si sia sono su sua sue sul"
    " sulla suo tra tutti tutto un una uno vi voi è",
    "pt": "a ao aos as até com como da das de dela dele do dos e ela elas ele eles em entre era essa esse esta este eu"
    " foi há isso isto já lhe mais mas me mesmo meu minha muito na nas nem no nos não nós o os ou para pela pelo por"
    " porque qual quando que quem se sem ser seu sua são só também te tem um uma você à às é",
    "nl": "aan al alle als altijd ben bij daar dan dat de der deze die dit doch doen door dus een en er ge geen had heb"
    " hebben heeft hem het hier hij hoe hun ik in is ja je kan kon maar me meer men met mij mijn moet na naar niet nog"
    " nu of om omdat onder ons ook op over reeds te tegen tot uit van veel voor want waren was wat we wel werd wie wil"
    " worden wordt zal ze zelf zich zij zijn zo zonder zou",
}
STOP_WORDS = {language: frozenset(split_words.split()) for language, split_words in _LISTS.items()}
_SPOKEN = {
    word: tuple(language for language, known in STOP_WORDS.items() if word in known)
    for word in frozenset().union(*STOP_WORDS.values())
}
"""The languages of each function word."""
_SUFFIXES = ("ingen", "ungen", "ings", "edly", "ing", "ung", "ers", "ern", "est", "ies", "es", "ed", "er", "em", "en",
             "e", "s", "n", "y")  # fmt: skip
_ROOT = 9
_SHORT_WORD = 3


def fold_sentence(text: str) -> str:
    """Return the words of a text in small letters, without marks, by which a sentence is told from others."""
    return " ".join(split_words(text))


@lru_cache(maxsize=1_024)
def split_words(text: str) -> tuple[str, ...]:
    """Return folded words in order. Numbers keep their points; other scripts without spaces come as pairs of
    characters."""
    if text.isascii():
        plain = _WORD.findall(text.lower())
        return tuple(word.removesuffix("'s") for word in plain) if "'" in text else tuple(plain)
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _NO_SPACES.search(word):
            for part in _NO_SPACES.findall(word):
                found += [part[i : i + 2] for i in range(max(1, len(part) - 1))]
            found += [part for part in _NO_SPACES.split(word) if part]
        else:
            found.append(word.replace("’", "'").removesuffix("'s"))
    return tuple(found)


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """Return a word without its ending, so that "Sätze" meets "Satz" and "embeddings" meets "embedding"; at most nine
    letters.

    Cutting words short serves most languages nearly as well as a stemmer made for each.
    """
    plain = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    if not plain.isalpha() or _NO_SPACES.match(plain):
        return plain
    for _ in range(2):
        for suffix in _SUFFIXES:
            if plain.endswith(suffix) and len(plain) - len(suffix) >= (3 if len(suffix) == 1 else 4):
                plain = plain[: -len(suffix)]
                break
        else:
            break
    if len(plain) > 3 and plain[-1] == plain[-2]:
        plain = plain[:-1]  # "embedd(ing)" meets "embed"
    return plain[:_ROOT]


def language_of(found: Sequence[str]) -> str | None:
    """Return the language whose function words are most among these; None where hardly any are."""
    counts = dict.fromkeys(STOP_WORDS, 0)
    for word in found:
        for language in _SPOKEN.get(word, ()):
            counts[language] += 1
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] >= max(1, len(found) * 0.12) else None


@lru_cache(maxsize=4_096)
def content_stems(text: str) -> frozenset[str]:
    """Return the stems of the words that carry content."""
    found = split_words(text)
    language = language_of(found)
    if language is not None:
        known = STOP_WORDS[language]
        return frozenset(stem(word) for word in found if word not in known and len(word) > 1)
    kept = [word for word in found if len(word) > _SHORT_WORD or not word.isalpha() or _NO_SPACES.match(word)]
    # A handful of short words and no more ("KV", "bm25 k1 b") is all there is to go by.
    return frozenset(stem(word) for word in (kept or found) if len(word) > 1 or not word.isalpha())


@lru_cache(maxsize=8_192)
def char_ngrams(roots: frozenset[str]) -> frozenset[str]:
    """Return runs of four letters within words, so that parts of compounds meet: "Vektorsuche" and "Suche"."""
    return frozenset(
        word[i : i + 4] for word in roots if word.isalpha() for i in range(max(1, len(word) - 3))
    )
