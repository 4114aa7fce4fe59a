"""What the live view asks before it changes something: each dialog returns an answer, or None for none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Generic, NamedTuple, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Checkbox, Input, Label

Answer = TypeVar("Answer")


class DrainAnswer(NamedTuple):
    """How a node is to be drained, as the admin API takes it."""

    timeout: str
    sticky: str


class Dialog(ModalScreen[Answer | None], Generic[Answer]):
    """A question, what it needs, and two buttons. Escape is no, Enter in a field is yes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss_with_nothing", "Cancel")]
    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical { width: 64; max-width: 95%; height: auto; max-height: 95%; border: round ansi_blue;
                        padding: 0 1; background: $surface; }
    Dialog Label { width: 100%; }
    Dialog .warning { color: ansi_red; text-style: bold; }
    Dialog Horizontal { height: 3; align-horizontal: right; }
    Dialog Button { margin-left: 2; }
    """

    def __init__(self, question: str, yes: str, warning: str = "") -> None:
        super().__init__()
        self._question = question
        self._yes = yes
        self._warning = warning

    def compose(self) -> ComposeResult:
        """Put the question, its fields and the buttons in a box."""
        with Vertical():
            yield Label(self._question, markup=False)
            if self._warning:
                yield Label(self._warning, classes="warning", markup=False)
            yield from self.fields()
            with Horizontal():
                yield Button(self._yes, id="yes", variant="primary")
                yield Button("Cancel", id="no")

    def fields(self) -> Iterable[Widget]:
        """Return what is to be filled in."""
        return ()

    def answer(self) -> Answer:
        """Return what was filled in."""
        raise NotImplementedError

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take the answer, or none."""
        self.dismiss(self.answer() if event.button.id == "yes" else None)

    def on_input_submitted(self) -> None:
        """Take the answer."""
        self.dismiss(self.answer())

    def action_dismiss_with_nothing(self) -> None:
        """Take no answer."""
        self.dismiss(None)


class Sure(Dialog[bool]):
    """Whether something is really to be done; Enter alone is no."""

    AUTO_FOCUS = "#no"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", "Yes"),
        Binding("n", "dismiss_with_nothing", "No"),
    ]

    def answer(self) -> bool:
        """Yes: nothing else can be filled in."""
        return True

    def action_yes(self) -> None:
        """Take a yes."""
        self.dismiss(True)


class Box(Checkbox):
    """A checkbox that is told from one that is not checked without colours, too."""

    BUTTON_INNER = " "

    def watch_value(self) -> None:
        """Show the mark, or none."""
        self.BUTTON_INNER = "X" if self.value else " "
        super().watch_value()


class DrainDialog(Dialog[DrainAnswer]):
    """Until when, and whether sticky clients are to move."""

    def fields(self) -> Iterable[Widget]:
        """Return a field for the timeout and one for sticky clients."""
        yield Label("End what is left after:", markup=False)
        yield Input("30s", id="timeout")
        yield Box("Move clients that belong to the node at once", id="move")

    def answer(self) -> DrainAnswer:
        """Return both."""
        moves = self.query_one("#move", Checkbox).value
        return DrainAnswer(self.query_one("#timeout", Input).value.strip(), "move" if moves else "keep")


class WeightDialog(Dialog[str]):
    """Which share a node is to have."""

    def fields(self) -> Iterable[Widget]:
        """Return a field for the number."""
        yield Label('A number, 0 for none, or "config" for what the settings say:', markup=False)
        yield Input(id="weight")

    def answer(self) -> str:
        """Return what was typed."""
        return self.query_one("#weight", Input).value.strip()


class Help(Dialog[bool]):
    """All keys."""

    def compose(self) -> ComposeResult:
        """Put the keys in a box."""
        with Vertical():
            yield Label(self._question, markup=False)
            with Horizontal():
                yield Button(self._yes, id="no", variant="primary")
