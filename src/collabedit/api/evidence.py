"""Evidence of lies, kept for third persons."""

from collections.abc import Callable, Mapping

from collabedit.errors import EvidenceFileError
from collabedit.proto.evidence import Evidence, EvidenceSink
from collabedit.proto.evidence_file import EvidenceFolder


def evidence_sink(
    folder: EvidenceFolder, observe: Callable[[str, Mapping[str, object]], None]
) -> EvidenceSink:
    """Return a sink that saves evidence and logs where; a full disk must not end a session."""

    def save(evidence: Evidence) -> None:
        try:
            path = folder.save(evidence)
        except EvidenceFileError as error:
            observe("evidence-lost", {"kind": evidence.kind.value, "why": str(error)})
        else:
            observe("evidence", {"kind": evidence.kind.value, "file": str(path)})

    return save
