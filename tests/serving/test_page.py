"""The page in a real browser, headless Chromium: by mouse, by keyboard, on a phone."""

import asyncio
import contextlib
import shutil
import threading
import time

import numpy as np
import pytest
from http_parts import Colours, pixels, png

pytest.importorskip("fastapi", reason="needs the extra `serve`")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
BROWSER = next((shutil.which(name) for name in BROWSERS if shutil.which(name)), None)
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("needs Chromium and chromedriver", allow_module_level=True)

import uvicorn  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from kgen.serving.http.app import application  # noqa: E402
from kgen.serving.http.run import listen  # noqa: E402


class Watched(Colours):
    """Colours that keep what they are asked for."""

    def __init__(self):
        super().__init__()
        self.drawings = []

    def draw(self, drawings, on_step):
        self.drawings += drawings
        return super().draw(drawings, on_step)


@contextlib.contextmanager
def live(backend, **options):
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(application(backend, **options), log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    run = server.serve(sockets=[listener])
    thread = threading.Thread(target=asyncio.run, args=(run,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def backend():
    return Watched()


@pytest.fixture
def page(browser, backend):
    with live(backend) as url:
        browser.set_window_size(1100, 900)
        browser.get(url)
        until(browser, lambda: status(browser) == "Ready")
        yield browser
        errors = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
        assert errors == []


def until(browser, condition):
    WebDriverWait(browser, 60, poll_frequency=0.02).until(lambda _: condition())


def status(browser):
    return browser.find_element(By.ID, "status").text


def find(browser, name):
    return browser.find_element(By.ID, name)


def cards(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#gallery article:not(.forming)")


def shown(card):
    """The pixels of the picture of a card."""
    source = card.find_element(By.TAG_NAME, "img").get_attribute("src")
    return pixels({"b64_json": source.split(",")[1]})[0]


def type_into(browser, **values):
    for name, value in values.items():
        field = find(browser, name)
        field.clear()
        field.send_keys(value)


def test_a_prompt_and_enter_give_pictures_with_their_settings_and_their_way(page, backend):
    assert page.switch_to.active_element.get_attribute("id") == "prompt"
    type_into(page, seed="100", count="2", steps="7", guidance="2.5", style="flat", negative="x")
    type_into(page, prompt="a red heart" + Keys.ENTER)
    until(page, lambda: len(cards(page)) == 2)
    first, second = cards(page)
    assert shown(first)[0, 0, 0] == 100
    assert shown(second)[0, 0, 0] == 101
    for text in ("a red heart, flat", "100", "7", "2.5", "x"):
        assert text in first.text
    drawing = backend.drawings[0]
    assert (drawing.prompt, drawing.seeds) == ("a red heart, flat", (100, 101))
    assert (drawing.steps, drawing.guidance, drawing.negative) == (7, 2.5, "x")
    way = first.find_element(By.CLASS_NAME, "path")
    way.send_keys(Keys.HOME)
    assert shown(first)[0, 0, 0] == 25
    way.send_keys(Keys.END)
    assert shown(first)[0, 0, 0] == 100
    first.find_element(By.CLASS_NAME, "again").click()
    assert find(page, "seed").get_attribute("value") == "100"
    first.find_element(By.CLASS_NAME, "edit").click()
    until(page, find(page, "canvas").is_displayed)
    find(page, "draw").click()
    until(page, lambda: len(cards(page)) == 3)
    assert (backend.drawings[-1].image == 100).all()
    link = first.find_element(By.CLASS_NAME, "save")
    assert link.get_attribute("download") == "a-red-heart-flat-100.png"


def test_paint_by_mouse_and_keyboard_is_what_is_redrawn(page, backend, tmp_path):
    photo = np.full((40, 40, 3), 30, "uint8")
    (tmp_path / "photo.png").write_bytes(png(photo))
    find(page, "file").send_keys(str(tmp_path / "photo.png"))
    canvas = find(page, "canvas")
    until(page, canvas.is_displayed)
    canvas.send_keys(Keys.SPACE)  # in the middle
    for _ in range(12):
        canvas.send_keys(Keys.ARROW_RIGHT)
    type_into(page, seed="200", prompt="sea" + Keys.ENTER)
    until(page, lambda: len(cards(page)) == 1)
    picture = shown(cards(page)[0])
    assert picture.shape == (40, 40, 3)
    assert (picture[18:22, 18:22] == 200).all()
    assert (picture[:8] == 30).all()
    assert (picture[:, 35:] == 30).all()
    find(page, "clear-mask").click()
    webdriver.ActionChains(page).move_to_element_with_offset(
        canvas, 0, -canvas.size["height"] // 2 + 4
    ).click().perform()
    find(page, "draw").click()
    until(page, lambda: len(cards(page)) == 2)
    picture = shown(cards(page)[0])
    assert (picture[:2, 18:22] == 200).all()
    assert (picture[12:] == 30).all()
    find(page, "clear-mask").click()
    find(page, "draw").click()
    until(page, lambda: len(cards(page)) == 3)
    assert backend.drawings[-1].mask is None
    assert backend.drawings[-1].strength == 0.6


def test_an_error_of_the_server_is_told_in_its_words(page):
    page.execute_script("document.getElementById('form').noValidate = true")
    type_into(page, steps="500", prompt="sea" + Keys.ENTER)
    until(page, lambda: "at most 100" in status(page))
    assert page.switch_to.active_element.get_attribute("id") == "steps"
    assert cards(page) == []
    page.get_log("browser")  # the browser notes the answer 422 as an error


def test_a_drawing_can_be_stopped(page, backend):
    backend.go.clear()
    type_into(page, prompt="sea" + Keys.ENTER)
    assert backend.drawing.wait(20)
    find(page, "stop").click()
    until(page, lambda: status(page) == "Stopped")
    backend.go.set()
    time.sleep(0.05)
    assert cards(page) == []
    assert find(page, "draw").is_enabled()


def test_on_a_phone_nothing_is_wider_than_the_screen_and_buttons_fit_a_finger(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        type_into(page, prompt="a" * 60 + Keys.ENTER)
        until(page, lambda: len(cards(page)) == 1)
        width = page.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360
        for button in page.find_elements(By.CSS_SELECTOR, "button, .button"):
            if button.is_displayed():
                assert button.size["height"] >= 40
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_field_has_a_name_for_screen_readers(page):
    script = """
        return [...document.querySelectorAll('form input, form button, canvas')].filter(e =>
            !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.textContent.trim()
        ).map(e => e.id)"""
    assert page.execute_script(script) == []


def test_a_server_with_a_token_is_asked_for_it(browser, backend):
    with live(backend, token="secret") as url:
        browser.get(url)
        until(browser, lambda: find(browser, "token").is_displayed())
        find(browser, "token").send_keys("secret" + Keys.ENTER)
        until(browser, lambda: status(browser) == "Ready")
        browser.execute_script("sessionStorage.clear()")
        browser.get_log("browser")  # the browser notes the answer 401 as an error
