"""What the other tests of this folder trust: a page that misbehaves fails its test."""

import pytest

MISBEHAVIOURS = {
    "console: no": "<script>console.error('no')</script>",
    "error: no": "<script>throw new Error('no')</script>",
    "alert: no": "<script>alert('no')</script>",
    "asks http://192.0.2.1/x.png": "<img src='http://192.0.2.1/x.png'>",
    "a window: about:blank": "<script>window.open('about:blank')</script>",
}


@pytest.mark.parametrize("expected", MISBEHAVIOURS)
def test_a_page_that_misbehaves_is_told(page, troubles, tmp_path, expected):
    (tmp_path / "page.html").write_text(MISBEHAVIOURS[expected])
    page.goto((tmp_path / "page.html").as_uri(), wait_until="commit")
    page.wait_for_timeout(200)
    found, troubles[:] = list(troubles), []
    assert expected in found


def test_a_file_that_is_not_there_is_told(page, troubles, tmp_path):
    (tmp_path / "page.html").write_text("<script src='nothing.js'></script>")
    page.goto((tmp_path / "page.html").as_uri())
    [failed, *_], troubles[:] = list(troubles), []
    assert "nothing.js" in failed


def test_a_page_that_does_none_of_it_is_not(open_page, tmp_path):
    (tmp_path / "page.html").write_text("<title>a page</title><script>console.log('yes')</script>")
    page = open_page(width=390, theme="dark")
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == "a page"
    assert page.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [
        *(390, True)
    ]
