"""The SAE family: models, the table of variants, files."""

from stages.sae.files import save
from stages.sae.loading import load, load_gemma_scope
from stages.sae.model import SAE
from stages.sae.normalisation import Normalisation
from stages.sae.table import find_variant, load_variants
from stages.sae.variant import Variant

__all__ = ["SAE", "Normalisation", "Variant", "find_variant", "load", "load_gemma_scope", "load_variants", "save"]
