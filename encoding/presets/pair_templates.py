"""The head of Jinja templates of pairs.

After :func:`gather_pair` there are ``ns.instruction`` (text of the ``system`` message) and, for the query and for the
document, ``ns.query_media``, ``ns.query_text``, ``ns.document_media`` and ``ns.document_text``. A chat of one ``user``
turn is a query without a document: sentence-transformers renders such chats for its statistics, as it renders pairs,
with ``add_generation_prompt``. Without that it is somebody who wants a vector, and gets an error.
"""

from __future__ import annotations

from .templates import IMAGE, SENTENCE, VIDEO

_GATHER = """\
{%- set ns = namespace(instruction='', query_films='', query_media='', query_text='',
                       document_films='', document_media='', document_text='') -%}
{%- if not add_generation_prompt and not messages | selectattr('role', 'equalto', 'document') | list -%}
{{- raise_exception('REFUSAL') -}}
{%- endif -%}
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- if content is string -%}{%- set content = [{'type': 'text', 'text': content}] -%}{%- endif -%}
{%- for part in content -%}
{%- set kind = part['type'] -%}
{%- if kind not in ('text', 'image', 'video') -%}
{{- raise_exception('content of type ' ~ kind ~ ' cannot be scored') -}}
{%- elif message['role'] == 'system' -%}{%- set ns.instruction = ns.instruction ~ part['text'] -%}
{%- elif message['role'] == 'document' -%}
{%- if kind == 'text' -%}{%- set ns.document_text = ns.document_text ~ part['text'] -%}
{%- elif kind == 'image' -%}{%- set ns.document_media = ns.document_media ~ 'IMAGE' -%}
{%- else -%}{%- set ns.DOCUMENT = ns.DOCUMENT ~ 'VIDEO' -%}{%- endif -%}
{%- else -%}
{%- if kind == 'text' -%}{%- set ns.query_text = ns.query_text ~ part['text'] -%}
{%- elif kind == 'image' -%}{%- set ns.query_media = ns.query_media ~ 'IMAGE' -%}
{%- else -%}{%- set ns.QUERY = ns.QUERY ~ 'VIDEO' -%}{%- endif -%}
{%- endif -%}{%- endfor -%}{%- endfor -%}
"""
_REFUSAL = (
    "this checkpoint is a reranker, which scores pairs of the roles query and document and has no vectors: open it as "
    "a CrossEncoder, or with umekit.load(...).rerank"
)
_FILMS_FIRST = """\
{%- set ns.query_media = ns.query_films ~ ns.query_media -%}
{%- set ns.document_media = ns.document_films ~ ns.document_media -%}
"""


def gather_pair(*, videos_first: bool = False) -> str:
    """The head of a template; media stand in content order, or ``videos_first``."""
    where = "films" if videos_first else "media"
    text = _GATHER.replace("ns.QUERY", f"ns.query_{where}").replace("ns.DOCUMENT", f"ns.document_{where}")
    text = text.replace("REFUSAL", _REFUSAL)
    text = text.replace("'IMAGE'", f"'{IMAGE}'").replace("'VIDEO'", f"'{VIDEO}'")
    return SENTENCE + text + (_FILMS_FIRST if videos_first else "")
