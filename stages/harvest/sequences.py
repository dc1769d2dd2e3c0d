"""Text -> rows of tokens in the store, before any forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from stages.harvest.config import HarvestConfig
from stages.language_model.config import CorpusConfig
from stages.language_model.corpus import documents
from stages.language_model.model import LanguageModel
from stages.language_model.tokens import PackedDocument, Packer, Rows, tokenise
from store import StoreWriter
from store.documents import split_of
from store.progress import Progress


def packed(lm: LanguageModel, text: CorpusConfig, config: HarvestConfig) -> Iterator[PackedDocument | Rows]:
    """Stream the corpus: each document with the rows it completed, at the end the rows left unfinished."""
    packer = Packer(config.context, config.packing, lm.bos_id, lm.pad_id, text.tokens)
    for document, ids in tokenise(documents(text), lm.tokenizer):
        done = packer.add(document, ids, split_of(document.text, config.heldout))
        if done is not None:
            yield done
        if packer.full:
            break
    yield packer.finish()


def write_sequences(
    writer: StoreWriter, lm: LanguageModel, text: CorpusConfig, config: HarvestConfig, progress: Progress
) -> None:
    """Tokenise, pack and commit the rows and the table of documents."""
    progress.start("tokenise", text.tokens or 0, "tokens")
    with writer.sequences() as out:
        for item in packed(lm, text, config):
            if isinstance(item, PackedDocument):
                document = item.document
                out.add_document(document.id, document.source, document.label, item.split, item.n_tokens)
                rows = item.rows
            else:
                rows = item
            out.add_rows(*rows)
            progress.advance(rows[0].size)
