"""The page of a paper's questions: what it says, and that it needs nothing else."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tfssl.reporting import chhipa2023, page, rows, tables
from tfssl.types import UserError

PUBLISHED = Path(__file__).parents[2] / "published" / "chhipa2023.csv"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "chhipa2023.html"
    chhipa2023.write(rows.read([PUBLISHED]), path)
    return path


def text_of(source):
    """Without scripts and tags."""
    source = re.sub(r"<(script|style)>.*?</\1>", " ", source, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", source)))


def test_answers_about_the_published_numbers(written):
    text = text_of(written.read_text())
    # Q1 and Q2, from the paper's table: 59.3 at severity 1, of 33.1 clean.
    assert "chhipa2023_simclr: yes" in text
    assert "59.3 < 69.6 < 77.1 < 84.3 < 89.6" in text
    assert "chhipa2023_simclr +26.2" in text
    assert "In doubt: the clean accuracy is the one published with the" in text
    # Q3: blur by the benchmark's own groups, whatever the figures say.
    assert "chhipa2023_swav blur 80.5 noise 75.3" in text
    # Q4: the three, at the same severity, for each method.
    falls = "snow at 3; elastic_transform at 3; saturate at 3"
    assert text.count(falls) == 8
    # Q5 was not measured, Q6 was.
    assert "Grad-CAM was not measured." in text
    assert "chhipa2023_dino_vits8, has a mean error of 57.3 %, not lower" in text
    # As coded.
    assert "chhipa2023_byol 1 73.8 74.6" in re.sub(r" a(?= |$)", "", text)


def test_the_page_loads_nothing(written):
    source = written.read_text()
    body = source.split("<body>")[1]
    assert not re.search(r"(src|href)=(?!\"data:)", body)
    assert "<link" not in source
    # Each plot is there, with data that can be read.
    data = re.findall(r"\}\)\)\((\{.*?\})\)</script>", body)
    assert len(data) == body.count('class="plot"') == 10
    first = json.loads(data[0].replace("<\\/", "</"))
    assert first["data"][0]["name"] == "chhipa2023_simclr"


def test_names_cannot_run_code(tmp_path):
    table = rows.read([PUBLISHED])
    evil = "</script><script>document.title='owned'</script>"
    table["run"] = table["run"].str.replace("chhipa2023_byol", evil)
    chhipa2023.write(table, tmp_path / "page.html")
    assert evil not in (tmp_path / "page.html").read_text()


def test_nothing_to_answer(tmp_path):
    few = rows.read([PUBLISHED]).query("perturbation != 'fog'")
    with pytest.raises(UserError, match="all 19 corruptions"):
        chhipa2023.write(few, tmp_path / "page.html")


def also_measured(metric, evaluator, value, where=None):
    """The published rows, and as many of another metric."""
    table = rows.read([PUBLISHED])
    more = table.query(f"perturbation != 'none' and ({where or 'True'})")
    more = more.assign(metric=metric, evaluator=evaluator, value=value(more))
    return pd.concat([table, more])


def test_maps_are_told_by_their_evaluator_where_they_were_measured(tmp_path):
    """Severities that were not are no 0, and runs without corruptions are not there."""
    measured = [
        also_measured("cam cosine", name, lambda _, v=value: v, "strength in (1, 5)")
        for name, value in (("cams_a", 0.25), ("cams_b", 0.75))
    ]
    other = measured[0].query("metric == 'cam cosine'").assign(run="another")
    chhipa2023.write(pd.concat([*measured, other]), tmp_path / "page.html")
    text = text_of((tmp_path / "page.html").read_text())
    gaps = " ".join([tables.GAP] * 3)
    for name, value in (("cams_a", 0.25), ("cams_b", 0.75)):
        title = f"imagenet2012 test, {name}: cosine of Grad-CAM's maps"
        table = text.split(title)[1].split("1: the classifier")[0]
        assert f"chhipa2023_swav {value:.3f} {gaps} {value:.3f}" in table
        assert "another" not in table


def test_titles_are_escaped(tmp_path):
    table = also_measured("ssim", "imagenet_c", lambda more: -more["strength"])
    table["run"] = table["run"].str.replace("chhipa2023_byol", "<!--<script>")
    chhipa2023.write(table, tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text().split("<body>")[1]
    assert "Error of &lt;!--&lt;script&gt; against SSIM" in source
    assert "<!--" not in source


def test_runs_that_lack_an_extra_corruption_do_not_hide_others(tmp_path):
    table = rows.read([PUBLISHED]).query(
        "run != 'chhipa2023_byol' or perturbation != 'saturate'"
    )
    chhipa2023.write(table, tmp_path / "page.html")
    text = text_of((tmp_path / "page.html").read_text())
    assert "chhipa2023_simclr: yes" in text
    assert "chhipa2023_byol: yes" not in text
    assert "Not measured under all 19: chhipa2023_byol." in text


def test_pictures_are_within(tmp_path):
    made = page.Page("t")
    made.picture(b"png", "a <b>")
    made.write(tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text()
    assert 'src="data:image/png;base64,cG5n"' in source
    assert "a &lt;b&gt;</figcaption>" in source
    assert "Plotly" not in source


@pytest.mark.browser
def test_in_a_browser(written):
    """All plots are drawn, without a network."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install chromium"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=9000",
    ]
    found = subprocess.run(
        [chromium, *flags, "--dump-dom", written.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    assert found.count('class="main-svg"') >= 10
    # In the first plot a line for each run, and its key.
    first = found.split('id="plot1"')[1].split('id="plot2"')[0]
    assert first.count('class="js-line"') == 16
