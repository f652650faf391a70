"""One encoder shared by many callers: texts that wait are encoded together, images take turns with them.

While a forward pass is under way, texts gather; the next pass takes them all. Nobody waits for company: a text that
finds the encoder idle goes at once. All calls come from one thread, because fast tokenizers refuse to be borrowed
twice and two forward passes would share the cores.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import islice

from clip_pipeline.core.encoder import EmbeddingMatrix, Encoder, PixelBatch
from clip_pipeline.core.errors import EncoderUnavailableError

MOST_TEXTS = 64
REMEMBERED_TEXTS = 4096
LONGEST_REMEMBERED_CHARS = 500
"""What people type comes again, with each key pressed; pages of text do not, and would fill the memory."""


class TextBatches:
    """Vectors of texts and images by one encoder, so of one fingerprint. Safe to share between threads.

    The vectors of the last `remembered` texts are kept; a text asked for by several at once is encoded once.
    """

    def __init__(self, encoder: Encoder, *, most: int = MOST_TEXTS, remembered: int = REMEMBERED_TEXTS) -> None:
        """most: texts in one forward pass."""
        self._encoder = encoder
        self._most = most
        self._remembered = remembered
        self._changed = threading.Condition()
        self._waiting: dict[str, Future[EmbeddingMatrix]] = {}
        self._under_way: Mapping[str, Future[EmbeddingMatrix]] = {}
        self._images: deque[tuple[PixelBatch, Future[EmbeddingMatrix]]] = deque()
        self._known: OrderedDict[str, EmbeddingMatrix] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def text(self, text: str) -> "Future[EmbeddingMatrix]":
        """The coming embedding of one text, float32 [1, d], unit length, read-only; or what the encoder raises for it.

        Others may wait for the same future, so it is not to be cancelled.

        Raises:
            EncoderUnavailableError: closed. The future raises it where that happens meanwhile.
        """
        with self._changed:
            if (known := self._known.get(text)) is not None:
                self._known.move_to_end(text)
                future: Future[EmbeddingMatrix] = Future()
                future.set_result(known)
                return future
            if (asked := self._under_way.get(text) or self._waiting.get(text)) is not None:
                return asked
            return self._waiting.setdefault(text, self._new_future())

    def image(self, pixels: PixelBatch) -> "Future[EmbeddingMatrix]":
        """The coming embeddings of uint8 [n, 3, h, w] pixels, float32 [n, d], unit length; raises as `text`."""
        with self._changed:
            future = self._new_future()
            self._images.append((pixels, future))
            return future

    def close(self) -> None:
        """End the forward pass under way normally, refuse all that waits, and stop."""
        with self._changed:
            self._is_closed = True
            refused = [*self._waiting.values(), *(future for _, future in self._images)]
            self._waiting.clear()
            self._images.clear()
            self._changed.notify_all()
        for future in refused:
            future.set_exception(_stopping())
        if self._thread is not None:
            self._thread.join()

    def _new_future(self) -> "Future[EmbeddingMatrix]":
        """A future for the thread, which looks for work as soon as the caller lets go of the lock that it holds."""
        if self._is_closed:
            raise _stopping()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
            self._thread.start()
        self._changed.notify_all()
        return Future()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._waiting or self._images)
                if self._is_closed:
                    return
                # One pass of texts, one image: neither kind keeps the other waiting for longer.
                batch = {text: self._waiting.pop(text) for text in list(islice(self._waiting, self._most))}
                self._under_way = batch
                image = self._images.popleft() if self._images else None
            if batch:
                self._encode_texts(batch)
            if image is not None:
                self._encode_image(*image)

    def _encode_texts(self, batch: Mapping[str, "Future[EmbeddingMatrix]"]) -> None:
        outcomes = self._outcomes(list(batch))
        with self._changed:
            self._under_way = {}
            for text, outcome in outcomes.items():
                if not isinstance(outcome, BaseException):
                    self._remember(text, outcome)
        for text, future in batch.items():
            outcome = outcomes[text]
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _outcomes(self, texts: Sequence[str]) -> dict[str, EmbeddingMatrix | BaseException]:
        """A vector or an error for each text. A text that fails a pass is found by encoding each by itself."""
        try:
            vectors = self._encoder.encode_texts(texts)
            # Copied: a row that is remembered would keep the whole matrix.
            rows = [_read_only(vectors[n : n + 1].copy()) for n in range(len(texts))]
        except BaseException as error:  # noqa: BLE001 - whoever waits for the text raises it
            if len(texts) == 1:
                return {texts[0]: error}
            return {text: outcome for each in texts for text, outcome in self._outcomes([each]).items()}
        return dict(zip(texts, rows, strict=True))

    def _encode_image(self, pixels: PixelBatch, future: "Future[EmbeddingMatrix]") -> None:
        try:
            vectors = self._encoder.encode_images(pixels)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the image raises it
            future.set_exception(error)
        else:
            future.set_result(vectors)

    def _remember(self, text: str, vector: EmbeddingMatrix) -> None:
        if self._remembered and len(text) <= LONGEST_REMEMBERED_CHARS:
            self._known[text] = vector
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)


def _read_only(vector: EmbeddingMatrix) -> EmbeddingMatrix:
    """The same vector, which callers share, so none may change it."""
    vector.setflags(write=False)
    return vector


def _stopping() -> EncoderUnavailableError:
    return EncoderUnavailableError("the service is stopping; ask again when it has started")
