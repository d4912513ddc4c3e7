"""The laws every workspace obeys; ``ssld verify`` checks them on what is committed.

A law is a query for the rows that break it. Parts that a stage has not reached yet break nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import REJECT_REASONS, REMOVED, ROLES, VERDICTS
from ssld_pipeline.stages.dedupe import register_lists
from ssld_pipeline.stages.mining import pairs, prepare
from ssld_pipeline.verify.complete import unfinished

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.config.select import SelectConfig
    from ssld_pipeline.store.workspace import Workspace


@dataclass(frozen=True)
class Law:
    """``broken``: a query whose rows each break the law, an image_id or name first."""

    name: str
    says: str
    broken: str


@dataclass(frozen=True)
class Verdict:
    """``examples``: up to five rows that break the law. ``num_open``: of the law "complete", how many stages have work
    left; the examples name them, and nothing is broken."""

    law: Law
    num_broken: int
    examples: list[str]
    num_open: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "law": self.law.name,
            "says": self.law.says,
            "num_broken": self.num_broken,
            "num_open": self.num_open,
            "examples": self.examples,
        }


def laws(select: SelectConfig) -> tuple[Law, ...]:
    """``select``: what the manifest was made with. The queries need the views ``excluded`` (see ``mining``) and
    ``listed`` (see ``dedupe``) as well."""
    roles = ", ".join(f"'{r}'" for r in ROLES)
    reasons = ", ".join(f"'{r}'" for r in REJECT_REASONS)
    verdicts, removed = (", ".join(f"'{v}'" for v in names) for names in (VERDICTS, REMOVED))
    return (
        Law(
            "catalog_ids",
            "every image_id is in catalog once",
            "SELECT image_id, count(*) FROM catalog GROUP BY 1 HAVING count(*) > 1",
        ),
        Law(
            "catalog_rows",
            "catalog rows have a known role, a size and an offset",
            f'SELECT image_id, role FROM catalog WHERE role NOT IN ({roles}) OR size_bytes < 0 OR "offset" < 0',
        ),
        Law(
            "pool_complete",
            "of each labelled part every pool image is in exactly one of soft_labels, duplicates and rejects; one that "
            "is removed for another reason than being a copy may be a reject, too",
            """WITH reached AS (SELECT DISTINCT part FROM soft_labels),
               fate AS (SELECT image_id FROM soft_labels WHERE view = 0
                        UNION ALL SELECT DISTINCT image_id FROM duplicates WHERE is_duplicate
                        UNION ALL SELECT image_id FROM rejects WHERE stage IN ('find_copies', 'label')
                            AND image_id NOT IN (SELECT image_id FROM duplicates
                                                 WHERE is_duplicate AND verdict <> 'copy'))
               SELECT c.image_id, count(f.image_id) FROM catalog c LEFT JOIN fate f USING (image_id)
               WHERE c.role = 'pool' AND c.part IN (SELECT part FROM reached)
               GROUP BY 1 HAVING count(f.image_id) <> 1""",
        ),
        Law(
            "labels_known",
            "evaluation views in soft_labels are of pool images, augmented views of labeled images too",
            """SELECT image_id FROM (SELECT image_id FROM soft_labels WHERE view = 0)
               ANTI JOIN (SELECT image_id FROM catalog WHERE role = 'pool') USING (image_id)
               UNION ALL SELECT image_id FROM (SELECT DISTINCT image_id FROM soft_labels WHERE view > 0)
               ANTI JOIN (SELECT image_id FROM catalog WHERE role IN ('pool', 'labeled')) USING (image_id)""",
        ),
        Law(
            "labels_views",
            "an image in soft_labels has no gap in its views, and as many as the other images of its part",
            """WITH counted AS (SELECT image_id, part, count(*) AS num, min(view) AS first, max(view) AS last
                                FROM soft_labels GROUP BY ALL)
               SELECT image_id, part FROM counted WHERE num <> last - first + 1 OR first > 1
               UNION ALL SELECT part, '' FROM counted GROUP BY part HAVING min(last) <> max(last)""",
        ),
        Law(
            "labels_once",
            "no image has the same view twice in soft_labels",
            "SELECT image_id, view FROM soft_labels GROUP BY ALL HAVING count(*) > 1",
        ),
        Law(
            "probs",
            "probs are finite, in [0,1] and falling, and with tail_prob sum to 1 but for their rounding, 2^-7 of probs",
            """SELECT image_id, probs FROM soft_labels
               WHERE NOT list_bool_and(list_transform(probs, lambda p: isfinite(p) AND p BETWEEN 0 AND 1))
                  OR probs <> list_reverse_sort(probs) OR len(probs) <> len(class_ids)
                  OR len(list_distinct(class_ids)) <> len(class_ids)
                  OR NOT isfinite(tail_prob) OR tail_prob < 0
                  OR 1 - list_sum(probs) - tail_prob NOT BETWEEN -1e-5 AND 1e-5 + list_sum(probs) / 128
                  OR top1_class <> class_ids[1] OR NOT isfinite(entropy) OR entropy < 0""",
        ),
        Law(
            "duplicates_gone",
            "a confirmed duplicate has no soft label and is not in the manifest",
            """SELECT image_id FROM duplicates WHERE is_duplicate AND image_id IN
               (SELECT image_id FROM soft_labels UNION SELECT image_id FROM manifest)""",
        ),
        Law(
            "duplicates_role",
            "duplicates are of images of the pool or of images that are trained on, and say which",
            """SELECT d.image_id, d.role FROM duplicates d LEFT JOIN catalog c USING (image_id)
               WHERE c.role IS NULL OR c.role = 'protected' OR c.role <> coalesce(d.role, 'pool')""",
        ),
        Law(
            "duplicates_of",
            "protected_id names an image of the catalog, a repeat's one of the pool; only a denied one may do without",
            """SELECT image_id, protected_id FROM duplicates
               ANTI JOIN (SELECT image_id AS protected_id FROM catalog WHERE role <> 'pool') USING (protected_id)
               WHERE (protected_id IS NOT NULL OR verdict <> 'denied' OR method <> 'denied')
                 AND NOT (verdict IN ('repeat', 'allowed') AND protected_id IN
                          (SELECT image_id FROM catalog WHERE role = 'pool'))""",
        ),
        Law(
            "duplicates_repeat",
            "what an image repeats is kept",
            """SELECT image_id, protected_id FROM duplicates WHERE verdict = 'repeat' AND protected_id IN
               (SELECT image_id FROM duplicates WHERE is_duplicate)""",
        ),
        Law(
            "duplicates_verdict",
            "every verdict is of the closed set, and is_duplicate says whether it removes the image",
            f"""SELECT image_id, verdict FROM duplicates
                WHERE verdict NOT IN ({verdicts}) OR is_duplicate <> (verdict IN ({removed}))""",
        ),
        Law(
            "duplicates_allowed",
            "an image that is allowed is not removed, and one that is denied is denied once",
            """SELECT image_id, list(verdict) FROM duplicates GROUP BY 1
               HAVING bool_or(verdict = 'allowed') AND bool_or(is_duplicate) OR count_if(verdict = 'denied') > 1""",
        ),
        Law(
            "duplicates_lists",
            "images on the list dedupe.deny are removed, those on dedupe.allow are not",
            """SELECT image_id, list FROM listed WHERE is_known AND EXISTS (SELECT 1 FROM duplicates)
               AND (list = 'deny') <> (image_id IN (SELECT image_id FROM duplicates WHERE is_duplicate))""",
        ),
        Law(
            "manifest_ids",
            "every image_id is in manifest once",
            "SELECT image_id, count(*) FROM manifest GROUP BY 1 HAVING count(*) > 1",
        ),
        Law(
            "manifest_roles",
            "the manifest holds only labeled and pool images, with the roles of the catalog",
            """SELECT m.image_id, m.role FROM manifest m LEFT JOIN catalog c USING (image_id)
               WHERE m.role NOT IN ('labeled', 'pool') OR c.role IS DISTINCT FROM m.role""",
        ),
        Law(
            "manifest_address",
            "the manifest and the catalog give the same address of an image",
            """SELECT m.image_id FROM manifest m JOIN catalog c USING (image_id)
               WHERE (m.uri, m."offset", m.size_bytes) IS DISTINCT FROM (c.uri, c."offset", c.size_bytes)""",
        ),
        _manifest_per_class(select),
        Law(
            "manifest_excluded",
            "no image of the lists in select.exclude is in the manifest",
            "SELECT image_id, role FROM manifest SEMI JOIN excluded USING (image_id)",
        ),
        *([_manifest_filled(select)] if select.min_per_class else []),
        Law(
            "rejects_reasons",
            "every reject has a reason of the closed set",
            f"SELECT image_id, reason FROM rejects WHERE reason NOT IN ({reasons})",
        ),
        Law(
            "evaluations",
            "accuracies are in [0,1], top-5 is at least top-1",
            "SELECT model, top1 FROM evaluations WHERE NOT (top1 BETWEEN 0 AND 1 AND top5 BETWEEN top1 AND 1)",
        ),
        Law(
            "evaluations_measured",
            "accuracies are of at least one image",
            "SELECT model, input FROM evaluations WHERE num_images < 1",
        ),
    )


def _manifest_per_class(select: SelectConfig) -> Law:
    if select.target_total is None:
        says, limit = f"at most {select.per_class} mined rows of a class", f"num > {select.per_class}"
        total = ""
    else:  # a class that was filled ends at min_per_class; what is larger was mined
        says, limit = f"at most {select.target_total} mined rows, but for what min_per_class adds", "false"
        total = f"""UNION ALL SELECT 'all', sum(num) FROM sizes WHERE num > {select.min_per_class}
                    HAVING sum(num) > {select.target_total}"""
    return Law(
        "manifest_per_class",
        f"the manifest has {says}, ranked from 1 without gaps",
        f"""WITH sizes AS (SELECT class_id, count(*) AS num, count(DISTINCT rank) AS ranks, max(rank) AS last
                           FROM manifest WHERE role = 'pool' GROUP BY 1)
            SELECT class_id::VARCHAR, num FROM sizes WHERE {limit} OR last <> num OR ranks <> num {total}""",
    )


def _manifest_filled(select: SelectConfig) -> Law:
    return Law(
        "manifest_filled",
        f"a class has fewer than {select.min_per_class} mined rows only where no image is left that counts for it",
        f"""SELECT image_id, class_id FROM ({pairs(select, select.top_p)})
            ANTI JOIN (SELECT class_id FROM manifest WHERE role = 'pool' GROUP BY 1
                       HAVING count(*) >= {select.min_per_class}) USING (class_id)
            ANTI JOIN manifest USING (image_id) WHERE EXISTS (SELECT 1 FROM manifest)""",
    )


def _of_manifest(workspace: Workspace, config: RunConfig) -> SelectConfig:
    table = workspace.tables["manifest"]
    for part in table.parts().values():
        made_with = table.settings_of(part)["config"]
        known = type(config.select).model_fields.keys() & made_with.keys()
        return config.select.model_copy(update={name: made_with[name] for name in known})
    return config.select


def verify_laws(workspace: Workspace, config: RunConfig) -> Sequence[Verdict]:
    """One verdict per law, in order, and one on whether every stage has run. The manifest is judged by what it was made
    with, lists of image_ids are those of ``config``. duckdb.Error when a table does not have its contract's columns."""
    verdicts = []
    select = _of_manifest(workspace, config)
    with workspace.connect() as tables:
        prepare(tables, select)
        register_lists(tables, config.dedupe)
        for law in laws(select):
            total = tables.execute(f"SELECT count(*) FROM ({law.broken})").fetchone()
            examples = tables.execute(f"SELECT * FROM ({law.broken}) LIMIT 5").fetchall() if total and total[0] else []
            verdicts.append(Verdict(law, total[0] if total else 0, [" ".join(map(str, row)) for row in examples]))
    left = unfinished(workspace, config)
    return [*verdicts, Verdict(Law("complete", "every stage has run", ""), 0, left, len(left))]
