"""Write docs/data/logger_runs.csv: 39 of our proxy runs as an experiment logger exports them, and one that crashed.

The numbers are those of docs/data/proxy_runs.csv; names, units and the crash are what other people's tables have.
"""

from pathlib import Path

import pandas as pd

import fits

DATA = Path(__file__).with_name("data")
RUNS = 39


def main() -> None:
    """Write the table."""
    runs = fits.read_runs(DATA / "proxy_runs.csv").iloc[:RUNS].reset_index(drop=True)
    table = pd.DataFrame(
        {
            "Name": runs["run_id"],
            "State": "finished",
            "Created": [f"2026-11-{1 + row // 8:02d}T{row % 24:02d}:00:00" for row in range(RUNS)],
            "config.d_model": runs["hidden_size"],
            "config.n_layers": runs["num_layers"],
            "config.vocab_size": runs["vocab_size"],
            "config.seq_len": runs["sequence_length"],
            "config.moe.num_experts": runs["num_experts"],
            "config.moe.top_k": runs["experts_per_token"],
            "config.moe.n_shared": runs["num_shared_experts"],
            "config.moe.expert ffn": runs["expert_ffn_size"],
            "params/active non-emb [M]": runs["params_active_non_embedding"] / 1e6,
            "train/tokens (B)": runs["tokens"] / 1e9,
            "eval/loss": runs["loss"],
        }
    )
    crashed = table.iloc[[7]].assign(Name="proxy-lr-too-high", State="crashed", **{"eval/loss": 7.91})
    table = pd.concat([table.iloc[:12], crashed, table.iloc[12:]], ignore_index=True)
    table.to_csv(DATA / "logger_runs.csv", index=False)


if __name__ == "__main__":
    main()
