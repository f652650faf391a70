"""Releases come and go, some of them damaged; searches go on."""

import threading

from clip_pipeline.serving.release_watch import ReleaseWatch
from clip_pipeline_tests.serving.world import serving, shades


def damage(world, number):
    folder = world.store.release_dir(world.spec.key, number)
    # Segments are hard links that releases share: the damage must not reach into older ones.
    segment = max(folder.glob("segment-*.faiss"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.unlink()
    segment.write_bytes(content)


def test_a_damaged_release_is_not_served_and_health_says_so(world):
    world.index({"/photos/red.jpg": "a red thing"})
    world.index({"/photos/blue.jpg": "a blue thing"})
    damage(world, 2)
    world.store.set_current_release(world.spec.key, 1)
    with serving(world) as client:
        assert client.get("/api/v1/search", params={"q": "red"}).json()["index_release"] == "0000001"
        world.store.set_current_release(world.spec.key, 2)
        document = client.get("/api/v1/search", params={"q": "red"}).json()
        assert document["index_release"] == "0000001"
        assert [result["path"] for result in document["results"]] == ["/photos/red.jpg"]
        health = client.get("/health")
    assert (health.status_code, health.json()["failing"]) == (503, ["index"])
    assert health.json()["parts"]["index"]["release"] == "0000001"
    assert "release 0000002 is not served" in health.json()["detail"]


def test_a_service_that_starts_on_a_damaged_release_serves_the_one_before(world):
    world.index({"/photos/red.jpg": "a red thing"})
    world.index({"/photos/blue.jpg": "a blue thing"})
    damage(world, 2)
    with serving(world) as client:
        assert client.get("/api/v1/search", params={"q": "red"}).json()["index_release"] == "0000001"
        world.index({"/photos/green.jpg": "a green thing"})
        assert client.get("/api/v1/search", params={"q": "green", "k": 1}).json()["index_release"] == "0000003"
        assert client.get("/health").status_code == 200


def test_an_unreadable_pointer_leaves_the_open_release_in_use(world, client):
    world.index({"/photos/red.jpg": "a red thing"})
    assert client.get("/api/v1/search", params={"q": "red"}).json()["index_release"] == "0000001"
    (world.store.releases_dir(world.spec.key) / "CURRENT").write_text("garbage")
    assert client.get("/api/v1/search", params={"q": "red"}).json()["index_release"] == "0000001"
    assert client.get("/health").json()["failing"] == ["index"]
    world.store.set_current_release(world.spec.key, 1)
    client.get("/api/v1/search", params={"q": "red"})
    assert client.get("/health").status_code == 200


def test_searches_under_way_do_not_notice_a_swap(world):
    """Releases are published, and old ones pruned, while threads search without a pause: none may fail."""
    contents = shades(50)
    world.index(contents)
    watch = ReleaseWatch(world.store, world.spec)
    query = world.encoder.encode_texts(["anything"])
    stop, faults, seen = threading.Event(), [], set()

    def search_on():
        while not stop.is_set():
            reader = watch.current()
            assert reader is not None
            seen.add(reader.release.number)
            found = reader.search(query, 50)
            if (found.ids == -1).any():
                faults.append(found.ids)

    threads = [threading.Thread(target=search_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(8):
        world.index({f"/new/{i}.jpg": f"new {i}"})
    newest = watch.current()
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert newest is not None
    assert newest.release.number == 9
    assert {1, 9} <= seen
    assert not world.store.release_dir(world.spec.key, 1).exists(), "nothing was pruned"


def test_no_request_fails_and_none_goes_back_while_releases_come_and_go(world):
    """Clients search over HTTP all the time while 20 releases are published and the oldest of them pruned."""
    contents = shades(30)
    world.index(contents)
    stop = threading.Event()
    answers: list[list[tuple[int, str]]] = [[] for _ in range(3)]

    def search_on(client, seen):
        while not stop.is_set():
            response = client.get("/api/v1/search", params={"q": f"thing {len(seen) % 7}", "k": 5})
            document = response.json()
            complete = response.status_code == 200 and len(document["results"]) == 5
            seen.append((response.status_code, document["index_release"] if complete else response.text))

    with serving(world) as client:
        threads = [threading.Thread(target=search_on, args=(client, seen)) for seen in answers]
        for thread in threads:
            thread.start()
        try:
            for path in list(contents)[:20]:
                world.delete(path)
                world.publish()
            newest = client.get("/api/v1/search", params={"q": "thing"}).json()["index_release"]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert newest == "0000021"
    assert not world.store.release_dir(world.spec.key, 1).exists(), "nothing was pruned"
    for seen in answers:
        assert {status for status, _ in seen} == {200}, [text for status, text in seen if status != 200][:3]
        releases = [release for _, release in seen]
        assert releases == sorted(releases)
        assert len(set(releases)) > 3, "these searches hardly met a swap"
