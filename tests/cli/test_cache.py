"""limbeck cache: build, info and verify, and distill with a store."""

import json

import pytest
import yaml

from faults import DISTILL, furnished

SHORT = {"epochs": 2, "batch_size": 32, "learning_rate": 0.1, "checkpoint_seconds": 0.0}
RECIPE = {
    "name": "small",
    "data": {"kind": "npz", "path": "own.npz"},
    "teacher": {"model": {"kind": "mlp", "hidden": [16]}, "training": SHORT, "store": {"encoding": "topk", "k": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [4]}},
    "method": {"name": "kd", "temperature": 4.0},
    "training": SHORT | {"augment": {"noise": 0.1}},
    "validation": 20,
}


@pytest.fixture
def here(tmp_path):
    furnished(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def test_a_store_is_built_described_verified_and_distilled_from(limbeck, here):
    built = limbeck("cache", "build", "recipe.yaml", "--json", "-q")
    assert built.code == 0, built.err
    (said,) = json.loads(built.out)
    assert said["encoding"] == {"kind": "topk", "k": 2, "temperatures": [4.0], "dtype": "fp16"}
    assert said["whole_views"] == [1, 2]
    assert "cache verify" in built.err
    for place in (said["path"], "recipe.yaml"):
        assert json.loads(limbeck("cache", "info", place, "--json").out) == [said]
    assert "topk" in limbeck("cache", "info", said["path"]).out
    verified = limbeck("cache", "verify", said["path"], "recipe.yaml", "--samples", "20", "--json", "-q")
    assert verified.code == 0, verified.err
    assert json.loads(verified.out)["samples"] == 20
    before = sorted(path.stat().st_mtime_ns for path in here.glob("cache/limbeck/stores/*/*"))
    run = limbeck(*DISTILL)
    assert run.code == 0, run.err
    assert sorted(path.stat().st_mtime_ns for path in here.glob("cache/limbeck/stores/*/*")) == before


def test_distill_builds_the_store_that_its_recipe_names(limbeck, here):
    run = limbeck(*DISTILL, "teacher.store.path=mine", "--json")
    assert run.code == 0, run.err
    (said,) = json.loads(limbeck("cache", "info", "mine", "--json").out)
    assert (said["whole_views"], said["encoding"]["k"]) == ([1, 2], 2)
    more = limbeck(
        "cache", "build", "recipe.yaml", "teacher.store.path=mine", "training.views=3", "training.epochs=9", "-q"
    )
    assert more.code == 0, more.err
    assert json.loads(limbeck("cache", "info", "mine", "--json").out)[0]["whole_views"] == [1, 2, 3]


def test_seeds_have_stores_of_their_own_where_their_views_differ(limbeck, here):
    built = limbeck("cache", "build", "recipe.yaml", "seeds=[0, 1]", "--path", "mine", "--json", "-q")
    assert [each["path"].rpartition("/")[2] for each in json.loads(built.out)] == ["seed-0", "seed-1"]
    plain = limbeck(
        "cache", "build", "recipe.yaml", "seeds=[0, 1]", "training.augment={}", "--path", "one", "--json", "-q"
    )
    assert [each["path"].rpartition("/")[2] for each in json.loads(plain.out)] == ["one"]


@pytest.mark.miniature(6)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["method={name: dist}"], "reads all of the teacher's logits; expected dense"),
        (["teacher.store.encoding=sampled", "teacher.store.draws=3"], "teacher.store.k: found with encoding sampled"),
        (["teacher.store={encoding: top}"], "teacher.store.encoding"),
        (["teacher.store={views: 1}"], "teacher.store.views: found 1, but the training shows 2; expected at least 2"),
        (["teacher.store={views: 3}", "training.augment={}"], "expected none. Leave views out"),
        (["training.augment={mixup: 1.0}"], "found mixup or cutmix"),
        (["scheme={name: born_again}"], "scheme born_again has several trainings"),
        (["method.temperature={kind: linear, start: 4.0, end: 1.0, steps: 4}"], "is a schedule"),
        (["teacher.store={encoding: topk, k: 0}"], "teacher.store.k"),
        (["teacher.store={encoding: topk, temperatures: [0.0]}"], "teacher.store.temperatures: found 0"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_runs(limbeck, here, settings, said):
    for verb in (("check", "recipe.yaml"), ("cache", "build", "recipe.yaml")):
        assert said in limbeck(*verb, *settings).refused()
    assert not (here / "cache" / "limbeck" / "stores").exists()


@pytest.mark.thorough
def test_another_recipes_store_and_a_damaged_one_are_refused_by_name(limbeck, here):
    limbeck("cache", "build", "recipe.yaml", "--path", "mine", "-q")
    limbeck("cache", "verify", "mine", "recipe.yaml", "-q", "teacher.seed=1").refused("mine", "key.teacher")
    limbeck("cache", "verify", "mine", "recipe.yaml", "-q", "seeds=[3]").refused("mine", "key.augmentation")
    shard = here / "mine" / "shard-00002-00000.bin"
    content = bytearray(shard.read_bytes())
    content[7] ^= 1
    shard.write_bytes(content)
    limbeck("cache", "verify", "mine", "recipe.yaml", "-q").refused("shard-00002-00000.bin", "wrong checksum")
    limbeck(*DISTILL, "teacher.store.path=mine").refused("shard-00002-00000.bin", "wrong checksum")
    shard.unlink()
    limbeck("cache", "verify", "mine", "recipe.yaml", "-q").refused("view 2")
    limbeck("cache", "info", "nowhere").refused()
    limbeck("cache", "info", str(here)).refused("header.json", "is missing")


def test_verify_names_the_first_sample_that_the_teacher_answers_otherwise(limbeck, here):
    import numpy as np

    from limbeck.cache import Store
    from limbeck.cache.format import write_shard

    limbeck("cache", "build", "recipe.yaml", "--path", "mine", "-q")
    store = Store(here / "mine")
    rows = np.array(store.shard(2, 0))
    rows[[3, 5]] = rows[[5, 3]]
    write_shard(here / "mine", 2, 0, rows, store.header)
    answer = limbeck("cache", "verify", "mine", "recipe.yaml", "--samples", "1000", "-q")
    assert answer.code == 1
    assert f"answers sample {int(store.index[3])} at view 2 otherwise than the teacher" in answer.err


def test_answers_made_elsewhere_are_stored(limbeck, here):
    import numpy as np

    from limbeck.config import load_recipe
    from limbeck.experiment.parts import prepare

    count = len(prepare(load_recipe(here / "recipe.yaml"), refit=False).transfer)
    np.savez(
        here / "answers.npz", ids=np.tile([[0, 1]], (count, 1)), log_probs=np.log(np.tile([[0.5, 0.25]], (count, 1)))
    )
    answer = limbeck("cache", "import", "answers.npz", "recipe.yaml", "--path", "mine", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)[0]["encoding"]["temperatures"] == [1.0]
    limbeck("cache", "import", "answers.npz", "recipe.yaml", "data.transfer.fraction=0.5").refused("expected one each")
