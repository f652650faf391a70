"""The page about workers: who is alive, what they do, and what a person has to look after."""

from clip_pipeline_tests.serving.fleet import RUN_ID, enter, enter_all, write_fleet
from clip_pipeline_tests.serving.pages.reading import read
from clip_pipeline_tests.serving.world import World, serving


def rows_of(page):
    return [row.text for row in page.root.one("tbody").all("tr")]


def test_a_service_without_workers_says_how_to_make_one(client):
    page = read(client.get("/ui/workers"))
    assert "No worker was ever seen" in page.text
    assert "clip-pipeline worker" in page.text
    assert ("a", {"href": "/ui/workers", "aria-current": "page"}) in page.elements


def test_each_worker_is_a_line_with_its_state_and_its_run_leads_to_dagster(world, client, dagster):
    enter_all(world)
    page = read(client.get("/ui/workers"))
    rows = rows_of(page)
    assert len(rows) == 6
    assert "gpu05:4000" in rows[0]
    assert "lost" in rows[0]
    assert "500" not in rows[0]
    busy = next(row for row in rows if "gpu01:4000" in row)
    assert "cuda:0, NVIDIA H200" in busy
    assert "1843.2" in busy
    assert "the old one" in next(row for row in rows if "gpu04" in row)
    links = {link["href"]: link for link in page.all("a") if "/runs/" in link["href"]}
    assert f"http://127.0.0.1:{dagster.port}/runs/{RUN_ID}" in links
    assert all(link["rel"] == "noopener" for link in links.values())
    assert not any("lost-run" in address for address in links)
    assert page.root.one(class_="tile-bad").text.startswith("Alive 4")


def test_what_a_worker_says_of_itself_is_text_and_no_markup(world, client):
    enter(world, "gpu01", name="<script>alert(1)</script>", gpu="<b>cuda</b>")
    page = read(client.get("/ui/workers"))
    assert "<script>alert(1)</script>" in page.text
    assert page.all("b") == []


def test_a_faulty_fleet_file_is_said_and_the_workers_are_shown(tmp_path, dagster):
    path = write_fleet(tmp_path / "fleet.yaml", "gpu01", "gpu09")
    world = World(tmp_path / "home", dagster_port=dagster.port, fleet=str(path))
    enter(world, "gpu01")
    with serving(world) as client:
        rows = rows_of(read(client.get("/ui/workers")))
        assert "gpu09:4000" in rows[0]
        assert "never" in rows[0]
        path.write_text("gpu: nonsense")
        page = read(client.get("/ui/workers"))
        assert "faulty" in page.root.one(class_="notice-warning").text
        assert len(rows_of(page)) == 1
    world.close()


def test_without_scripts_the_page_reads_itself_again(client):
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in client.get("/ui/workers").text
