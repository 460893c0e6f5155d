"""A client's skills in words, for the system prompt of one request."""

from collections.abc import Iterable
from html import escape

from perdure.core.runs import ClientSkill


def render_skills(skills: Iterable[ClientSkill]) -> str:
    """The `<available_skills>` section: what each skill does, and where its text lies at the client's."""
    shown = [
        f"<skill>\n<name>{_text(skill.name)}</name>\n<description>{_text(skill.description)}</description>\n"
        f"<location>{_text(skill.location)}</location>\n</skill>"
        for skill in skills
    ]
    intro = "Skills of the environment you work in. Read a skill's file before you do what it is for."
    return "\n".join(["<available_skills>", intro, *shown, "</available_skills>"])


def _text(value: str) -> str:
    """Nothing that a client writes can end the section."""
    return escape(value, quote=False)
