"""Logging in with a key in a browser: from the page that was asked for, back to it, and out again."""

import re

import pytest
from playwright.sync_api import expect

from clip_pipeline.ledger.api_keys import Scope
from clip_pipeline_tests.browser.conftest import PHONE
from clip_pipeline_tests.serving.pages.people import make_key
from clip_pipeline_tests.serving.world import free_port


def log_in(page, token):
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Log in").click()


def test_a_person_logs_in_comes_to_the_page_asked_for_and_logs_out(world, client, open_page):
    created = make_key(world, scope=Scope.WRITE, name="Ada's key")
    page = open_page(client.base_url)
    page.goto("/ui/jobs")
    expect(page).to_have_title(re.compile("Log in"))
    log_in(page, created.token)
    expect(page).to_have_url(re.compile("/ui/jobs$"))
    expect(page.locator(".site-user")).to_have_text("Ada's key")
    # Scripts of the page act as the session: the dot asked how the service is.
    expect(page.locator("[data-health]")).not_to_have_attribute("data-health", "unknown")
    # No script reads the cookie.
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_have_text("You are logged out.")
    assert page.context.cookies() == []
    page.goto("/ui/jobs")
    expect(page).to_have_title(re.compile("Log in"))


def test_a_wrong_key_is_told_and_the_next_try_works_without_scripts_on_a_phone(world, client, open_page):
    created = make_key(world)
    open_page.expected.append("status of 401")
    page = open_page(client.base_url, viewport=PHONE, java_script_enabled=False)
    page.goto("/ui/search")
    log_in(page, "a guess")
    expect(page.get_by_role("alert")).to_contain_text("not one of this service")
    expect(page.get_by_label("API key")).to_have_value("")
    log_in(page, created.token)
    expect(page).to_have_url(re.compile("/ui/search$"))


def test_a_form_sent_by_a_logged_in_person_is_taken(world, client, open_page):
    created = make_key(world, scope=Scope.WRITE)
    open_page.expected.append("status of 422")
    page = open_page(client.base_url)
    page.goto("/ui/jobs")
    log_in(page, created.token)
    page.locator('form[action="/ui/jobs"] textarea').first.fill("/not/allowed.jpg")
    page.locator('form[action="/ui/jobs"] button[type="submit"]').click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was queued")


@pytest.mark.parametrize(
    ("elsewhere", "status"),
    [
        # Another site: the browser keeps the cookie back, so nobody is logged in there.
        ("http://evil.example/", "401"),
        # Another port of this machine is the same site to a browser: the cookie comes, and the origin tells.
        ("http://127.0.0.1:{port}/", "403"),
    ],
)
def test_a_form_on_a_page_of_others_does_nothing_in_the_name_of_a_person(world, client, browser, elsewhere, status):
    created = make_key(world, scope=Scope.WRITE)
    elsewhere = elsewhere.format(port=free_port())
    form = f'<form method="post" action="{client.base_url}/ui/logout"><button>Win a prize</button></form>'
    with browser.new_context(base_url=str(client.base_url)) as context:
        context.route(f"{elsewhere}**", lambda route: route.fulfill(body=form, content_type="text/html"))
        page = context.new_page()
        page.goto("/ui/jobs")
        log_in(page, created.token)
        expect(page.locator(".site-user")).to_be_visible()
        page.goto(elsewhere)
        page.get_by_role("button").click()
        expect(page.locator(".error-status")).to_have_text(status)
        page.goto("/ui/jobs")
        expect(page.locator(".site-user")).to_be_visible()
