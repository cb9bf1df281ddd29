"""Folders as tdbench leaves them, for reports of them."""

import html
import json
import re
import shutil
from pathlib import Path

import tdbench

RESULTS = Path(__file__).parents[2] / "ablations" / "results"
FASHION = RESULTS / "drop_ratio_fashion_mnist"


def page_of(*folders, tmp_path):
    return tdbench.report(*folders, out=tmp_path / "report.html").read_text(encoding="utf-8")


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def copied(folder, tmp_path, **changes):
    there = tmp_path / "sweep"
    shutil.copytree(folder, there)
    for name, change in changes.items():
        path = there / name.replace("_csv", ".csv").replace("_yaml", ".yaml")
        path.write_text(change(path.read_text()))
    return there


def run_of(path, release, epochs=2):
    """Write a run as a release of tdbench would leave it."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 0\n")
    (path / "environment.json").write_text(json.dumps({"tdbench": release, "command": ["x", "train", "--out", "a b"]}))
    rows = "".join(f"{epoch},{50 / epoch},{60 / epoch}\n" for epoch in range(1, epochs + 1))
    (path / "metrics.csv").write_text(f"epoch,train_error_pct,test_error_pct\n{rows}")
    return path


LAYER_TABLE = """\
method,shape,dtype,memory_format,device,forward_ms,backward_ms,total_ms,p20_ms,p80_ms,floor_ratio,gb_per_s,peak_mem_mib,\
launches,host_syncs,graph_breaks,compile,n,status,floor_ratio_ci95_low,floor_ratio_ci95_high,plain_total_ms,plain_floor_ratio
floor,32x16x32x32,float32,channels_last,cpu (X),0.1,0.2,0.3,0.2,0.4,1.0,13.8,2.0,2,0,0,False,11,ok,1.0,1.0,0.6,1.0
targetdrop,32x16x32x32,float32,channels_last,cpu (X),0.4,0.2,0.6,0.5,0.7,2.5,7.1,2.0,3,0,0,False,11,ok,2.4,2.6,0.5,1.9
dropblock,32x16x32x32,float32,channels_last,cpu (X),0.8,0.4,1.2,1.0,2.9,4.8,3.6,2.4,50,2,0,False,11,ok,2.3,5.5,1.0,1.7
dropout,32x16x32x32,float32,channels_last,cpu (X),,,,,,,,,,,,False,0,OOM,,,,
floor,32x32x8x8,float32,channels_last,cpu (X),0.1,0.1,0.2,0.1,0.2,1.0,14.6,1.0,2,0,0,False,11,ok,1.0,1.0,0.1,1.0
targetdrop,32x32x8x8,float32,channels_last,cpu (X),0.2,0.1,0.3,0.3,0.4,1.7,6.1,1.0,3,0,0,False,11,ok,1.6,1.8,0.3,1.7
"""
STEP_TABLE = """\
method,model,batch_size,precision,compile,device,step_ms,train_img_per_s,overhead_pct,peak_mem_mib,overhead_ci95_low,\
overhead_ci95_high,n,status
none,resnet8,32,fp32,False,cpu (X),27.5,1162.8,0.5,11.0,-0.9,3.0,10,ok
targetdrop,resnet8,32,fp32,False,cpu (X),26.9,1186.9,-2.8,11.0,-6.2,1.4,10,ok
dropblock,resnet8,32,fp32,False,cpu (X),29.6,1082.4,7.6,13.2,3.3,34.3,10,ok
dropout,resnet8,32,fp32,False,cpu (X),,,,,,,0,OOM
"""


def profile_of(path):
    """Write a profile, one of whose methods did not fit into the memory."""
    path.mkdir(parents=True)
    (path / "profile_layer.csv").write_text(LAYER_TABLE)
    (path / "profile_step.csv").write_text(STEP_TABLE)
    machine = {
        "copy_gb_per_s": 27.5,
        "matmul_gflop_per_s": 154.1,
        "step_gflop": 2.3,
        "step_gb": 0.1,
        "step_operators": 9,
    }
    told = {"torch": "2.14", "command": ["/bin/tdbench", "profile"], "machine": {**machine, "limit": "It is memory."}}
    (path / "environment.json").write_text(json.dumps(told))
    return path


CANDIDATE_TABLE = """\
candidate,regularizer,status,drop_ratio,block_size,n,valid_error_pct_mean,valid_error_pct_std,delta_vs_baseline,\
dropped_pct,wall_s,error
baseline,none,done,,,2,16.5,0.2,,0.0,1.3,
default,targetdrop,done,0.15,5,2,15.3,3.4,-1.2,0.5,1.1,
1,targetdrop,done,0.0279,1,2,19.8,0.0,3.3,0.04,1.8,
2,targetdrop,done,0.289,3,2,12.5,2.4,-4.0,0.4,2.6,
3,targetdrop,failed,0.352,1,0,,,,,,it ran out of memory
4,targetdrop,done,0.581,3,2,17.4,3.4,0.9,0.9,3.2,
"""
PROMISED_TABLE = """\
arm,promised,promised_ci95_low,promised_ci95_high,promised_n,kept,kept_ci95_low,kept_ci95_high,kept_n,verdict
default,-1.2,-32.5,30.1,2,1.04,-2.2,4.3,4,undecided at 4 seeds
candidate 2,-4.0,,,2,-1.5,-2.5,-0.5,4,helps
candidate 4,0.9,-3.1,4.9,2,,,,,
"""


def search_of(path):
    """Write a search with what was promised and kept, without the sweep that confirmed it."""
    path.mkdir(parents=True)
    (path / "tune.yaml").write_text("base:\n  data:\n    name: digits\nparam:\n  drop_ratio: 0.02..0.6\ntrials: 5\n")
    (path / "candidates.csv").write_text(CANDIDATE_TABLE)
    (path / "importance.csv").write_text("regularizer,param,importance\ntargetdrop,drop_ratio,0.6\n")
    (path / "promised.csv").write_text(PROMISED_TABLE)
    return path
