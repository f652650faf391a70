"""Pool limits are explicit, and a person's choice outlives a restart."""

import dagster as dg

from clip_pipeline.defs.assets.analysis import analysis_results
from clip_pipeline.defs.assets.embeddings import image_embeddings
from clip_pipeline.defs.assets.labels import image_labels, label_embeddings
from clip_pipeline.defs.assets.manifests import image_manifest
from clip_pipeline.defs.assets.merged_index import merged_index
from clip_pipeline.defs.instance import POOL_LIMITS, set_pool_limits
from clip_pipeline.defs.maintenance.jobs import POOL as MAINTENANCE

ASSETS = (image_manifest, image_embeddings, merged_index, analysis_results, label_embeddings, image_labels)


def limits_of(instance):
    return {pool.name: (pool.limit, pool.from_default) for pool in instance.event_log_storage.get_pool_limits()}


def test_every_pool_has_an_explicit_limit(tmp_path):
    pools = {asset.op.pool for asset in ASSETS} | {MAINTENANCE}
    assert pools == set(POOL_LIMITS)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert set(set_pool_limits(instance, POOL_LIMITS)) == pools
        assert limits_of(instance) == dict.fromkeys(pools, (1, False))


def test_a_limit_that_a_person_set_stays(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 3)
        assert "gpu" not in set_pool_limits(instance, POOL_LIMITS)
        assert limits_of(instance)["gpu"] == (3, False)
