"""The tables for people say what the rows say, OOM among it."""

from tdbench.store.profiles import layer_tables, markdown, step_table, unsteady_layers, unsteady_line

STEP = {
    "method": "targetdrop",
    "batch_size": 64,
    "step_ms": 12.345,
    "train_img_per_s": 5184.3,
    "overhead_pct": 1.234,
    "overhead_ci95_low": -0.5,
    "overhead_ci95_high": 2.5,
    "peak_mem_mib": 100.04,
    "n": 11,
    "status": "ok",
}
LAYER = {
    "method": "floor",
    "shape": "2x3x4x5",
    "dtype": "float32",
    "memory_format": "channels_last",
    "forward_ms": 1.0,
    "backward_ms": 1.5,
    "total_ms": 2.5,
    "p20_ms": 2.0,
    "p80_ms": 3.0,
    "floor_ratio": 1.0,
    "status": "ok",
}
NO_STEP = {"method": "dropout", "batch_size": 64, "step_ms": None, "n": 0, "status": "OOM"}
NO_LAYER = {**LAYER, **dict.fromkeys(LAYER, None), "method": "dropout", "status": "OOM"}


def test_a_step_shows_its_overhead_with_its_interval():
    (row,) = step_table([STEP])
    assert (row["step ms"], row["images/s"], row["overhead %"]) == ("12.35", "5,184", "+1.2")
    assert row["95 % interval"] == "-0.5 to +2.5"


def test_a_row_without_memory_says_oom_in_the_cell_that_counts_and_nothing_in_the_others():
    (row,) = step_table([NO_STEP])
    assert {value for key, value in row.items() if key not in ("method", "batch", "n")} == {"OOM", ""}
    assert row["step ms"] == "OOM"


def test_each_shape_has_a_table_of_its_own():
    tables = layer_tables([LAYER, {**LAYER, "shape": "9x9x9x9"}, {**LAYER, "method": "dropout"}])
    assert [len(table) for table in tables.values()] == [2, 1]
    assert next(iter(tables)) == "The layer alone at 2×3×4×5, float32, channels_last"


def test_the_summary_holds_the_tables_and_the_sentence_about_the_machine():
    machine = {
        "copy_gb_per_s": 10.0,
        "matmul_gflop_per_s": 100.0,
        "step_gflop": 1.0,
        "step_gb": 0.1,
        "step_operators": 9,
        "limit": "Arithmetic limits the step.",
    }
    no_layer = {**NO_LAYER, "shape": "2x3x4x5", "dtype": "float32", "memory_format": "channels_last"}
    text = markdown({"model": "resnet8"}, [STEP, NO_STEP], [LAYER, no_layer], machine)
    for wanted in ("resnet8", "| targetdrop |", "2–3", "Arithmetic limits the step.", "10.0 GB/s"):
        assert wanted in text
    assert text.count("OOM") == 2


def test_a_baseline_that_differs_from_itself_is_told():
    assert unsteady_line([{**STEP, "method": "none", "overhead_ci95_low": -9.9, "overhead_ci95_high": 10.0}]) is None
    assert unsteady_line([{**STEP, "method": "none", "overhead_ci95_low": None, "overhead_ci95_high": None}]) is None
    assert unsteady_line([{**STEP, "overhead_ci95_low": -99.0}]) is None
    rows = [{**STEP, "method": "none", "overhead_ci95_low": -92.7, "overhead_ci95_high": 1563.0}]
    assert "seems to take -93 to +1,563 % longer" in unsteady_line(rows)
    assert unsteady_line(rows) in markdown({"model": "resnet8"}, rows, [], None)


def test_a_layer_s_ratio_has_its_interval_and_is_marked_where_that_is_wide():
    steady = {**LAYER, "floor_ratio": 2.0, "floor_ratio_ci95_low": 1.9, "floor_ratio_ci95_high": 2.2}
    wide = {
        **steady,
        "method": "dropout",
        "floor_ratio_ci95_high": 2.5,
        "plain_total_ms": 9.0,
        "plain_floor_ratio": 1.25,
    }
    ((title, rows),) = layer_tables([steady, wide]).items()
    assert [(row["95 %"], row["plain ×"]) for row in rows] == [("1.90 to 2.20", ""), ("1.90 to 2.50 unsteady", "1.25")]
    assert title.endswith("channels_last, freed memory kept")
    assert unsteady_layers([steady]) is None
    assert "dropout at 2×3×4×5 has a 95 % interval wider than 25 %" in unsteady_layers([steady, wide])
