"""Words that texts are made of: the most frequent ones of English, after a space one token in nearly any vocabulary.

In cl100k_base and o200k_base each one is, and a text of 1,000 of them is 1,000 tokens.
"""

from __future__ import annotations

from typing import Final

_TEXT: Final = """
the of and to in is that for it as was with be by on not he his but at are this have from or had an they which
one you were all her she there would their we him been has when who will no more if out so up said what its
about than into them can only other time new some could these two may first then do any like my now over such
our man me even most made after also did many before must through back where much your way well down should
because each just those how too little state good very make world still see own work long get here between
both life being under never day same another know while last might us great old year off come since against go
came right used
"""
WORDS: Final = tuple(_TEXT.split())
