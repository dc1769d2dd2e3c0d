"""Text -> rows of tokens in the store, before any forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from stages.harvest.config import HarvestConfig
from stages.language_model import tokens
from stages.language_model.config import CorpusConfig
from stages.language_model.corpus import documents
from stages.language_model.model import LanguageModel
from store import StoreWriter
from store.progress import Progress


def packed(lm: LanguageModel, text: CorpusConfig, config: HarvestConfig) -> Iterator[tokens.Packed]:
    """Stream the corpus as packed rows and the documents that they come from."""
    return tokens.packed(
        documents(text),
        lm.tokenizer,
        context=config.context,
        packing=config.packing,
        heldout=config.heldout,
        bos_id=lm.bos_id,
        pad_id=lm.pad_id,
        limit=text.tokens,
    )


def write_sequences(
    writer: StoreWriter, lm: LanguageModel, text: CorpusConfig, config: HarvestConfig, progress: Progress
) -> None:
    """Tokenise, pack and commit the rows and the table of documents."""
    progress.start("tokenise", text.tokens or 0, "tokens")
    with writer.sequences() as out:
        for block in packed(lm, text, config):
            for doc in block.documents:
                out.add_document(doc.id, doc.source, doc.label, doc.split, doc.n_tokens)
            out.add_rows(block.tokens, block.document)
            progress.advance(block.tokens.size)
