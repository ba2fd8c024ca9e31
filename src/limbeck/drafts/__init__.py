"""A first recipe for data and models of one's own: what there is, what fits it, and the file."""

from limbeck.drafts.drafting import AIMS, SIZES, Wishes, draft
from limbeck.drafts.looked import Looked
from limbeck.drafts.looking import look
from limbeck.drafts.writing import recipe_text

__all__ = ["AIMS", "SIZES", "Looked", "Wishes", "draft", "look", "recipe_text"]
