"""What a plan does to each kind of field: one table from roles to rules."""

from tv_mixaug.batch.spec import FIELD_RULES, FieldRule, Mix, ParsedBatch, Role
from tv_mixaug.targets.detection import check_detection, mix_detection
from tv_mixaug.targets.images import mix_images
from tv_mixaug.targets.labels import check_label_values, mix_labels
from tv_mixaug.targets.masks import check_mask_values, mix_masks

FIELD_RULES.update(
    {
        Role.IMAGE: FieldRule(mix_images),
        Role.LABEL: FieldRule(mix_labels, check_label_values),
        Role.MASK: FieldRule(mix_masks, check_mask_values),
        Role.DETECTION: FieldRule(mix_detection, check_detection),
    }
)


def mix_fields(mix: Mix) -> ParsedBatch:
    """Mix each field of a batch by the rule of its role, or of its type."""
    values = list(mix.batch.values)
    for place, rule in mix.batch.steps:
        value = values[place]
        if rule is None:  # samples of something else than images
            values[place] = value.wrap(value.stack())
        else:
            values[place] = rule.mix(value, mix.batch.specs[place], mix)
    return mix.batch._replace(values=values)
