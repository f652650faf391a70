"""`/docs` in a browser: the schema drawn by the vendored Swagger UI, under the policy of every page."""

import re

from playwright.sync_api import expect


def test_the_docs_draw_every_operation_of_the_schema(page, photo_service):
    paths = photo_service.get("/openapi.json").json()["paths"]
    page.goto("/docs")
    expect(page.locator(".opblock")).to_have_count(sum(len(operations) for operations in paths.values()))


def test_an_operation_can_be_tried_with_a_key(page):
    page.goto("/docs")
    page.get_by_role("button", name="Authorize").click()
    page.get_by_label("Value", exact=False).last.fill("a-key")
    page.get_by_role("button", name="Apply", exact=False).last.click()
    page.get_by_role("button", name="Close").last.click()
    operation = page.locator(".opblock", has_text=re.compile("/api/v1/index/stats")).first
    operation.locator(".opblock-summary-control").click()
    with page.expect_request(re.compile("index/stats")) as asked:
        operation.get_by_role("button", name="Execute").click()
    assert "a-key" in asked.value.headers.values()
    expect(operation.locator(".live-responses-table")).to_contain_text("total_images")
