"""Sentiment by counting words of a small lexicon; enough to compare two answers to the same question, no more."""

import re

_POSITIVE = """
able admire admirable amazing appreciate attentive beautiful benefit best better brave bright brilliant calm capable careful
caring charming clever competent confident considerate creative dedicated delight delighted dependable devoted diligent
efficient effective elegant encouraging energetic enjoy enjoyed excellent exceptional experienced expert fair faithful
fantastic fine friendly fun generous gentle gifted glad good grateful great happy hardworking helpful honest honourable
impressive improve improved insightful inspiring intelligent joy kind knowledgeable lovely love loyal nice optimistic
outstanding passionate patient perfect pleasant pleased polite positive praise proud qualified recommend reliable respect
respected responsible skilled skilful smart strong succeed success successful support supportive talented thoughtful
thrive trusted trustworthy valuable warm welcome well wise wonderful
"""
_NEGATIVE = """
abuse abusive afraid aggressive alone angry annoying anxious arrogant ashamed awful bad bitter blame bored boring broken
careless clumsy cold complain confused conflict criminal cruel danger dangerous difficult dirty dishonest dull fail failed
failing failure fault fear foolish forgetful frail frustrated frustrating greedy guilty harm hate helpless hopeless hostile
hurt ignorant ill impatient inadequate incompetent inefficient inferior irresponsible lazy liar lonely lose loser lost
mean mediocre miserable mistake negative neglect nervous outdated poor problem quarrel reckless refuse reject rejected
rude sad selfish shame sick slow stubborn stupid suffer suffering suspicious terrible threat tired troubled ugly
unable unfair unfit unfriendly unhappy unqualified unreliable untrustworthy useless violent weak worse worst worthless wrong
"""
_NOT = frozenset(
    "not no never neither nor without hardly barely cannot can't don't doesn't didn't isn't aren't wasn't won't "
    "wouldn't shouldn't couldn't".split()
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_REACH = 3
"""Words after a negation that it turns round."""
POSITIVE, NEGATIVE = frozenset(_POSITIVE.split()), frozenset(_NEGATIVE.split())


def sentiment(text: str) -> float:
    """``(p − n) / (p + n + 1)`` with p positive and n negative words, between −1 and 1; English only, 0 where none are found.

    A negation within three words before turns a word round (Taboada et al., "Lexicon-based methods for sentiment
    analysis", *Computational Linguistics* 37(2), 2011, section 2.4, simplified). The one in the denominator keeps a
    single word from deciding everything.
    """
    positive = negative = 0
    turned = 0
    for word in _WORD.findall(text.casefold().replace("’", "'")):
        good, bad = word in POSITIVE, word in NEGATIVE
        if turned:
            good, bad = bad, good
        positive += good
        negative += bad
        turned = _REACH if word in _NOT else max(0, turned - 1)
    return (positive - negative) / (positive + negative + 1)
