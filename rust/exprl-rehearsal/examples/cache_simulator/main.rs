//! Replays the scheduler, and what others do, on the load of one training step; prints JSON lines.
//!
//!     cargo run --release -p exprl-rehearsal --example cache_simulator

mod replay;
mod server;

use replay::{Client, Layout, Load, Outcome, replay};
use serde_json::json;
use server::Hardware;

const SEEDS: std::ops::Range<u64> = 0..3;
const USUAL_KV: usize = 200_000;

fn main() {
    let clients = [
        ("step first", Layout::StepFirst, Client::Scheduler),
        (
            "reference after the trace",
            Layout::ReferenceAfterTrace,
            Client::Scheduler,
        ),
        (
            "best layout, any server in turn",
            Layout::TraceLast,
            Client::RoundRobin,
        ),
        (
            "best layout, all first steps, then all second",
            Layout::TraceLast,
            Client::StepMajor,
        ),
        (
            "best layout, back to back, server by hash alone",
            Layout::TraceLast,
            Client::Hash,
        ),
    ];
    for seed in SEEDS {
        let at_once = Load::training_step(36, 16, seed, 0.0);
        for (name, layout, client) in clients {
            let outcome = replay(&at_once, layout, client, hardware(USUAL_KV));
            print(name, seed, USUAL_KV, &outcome);
        }
        let arriving = Load::training_step(36, 16, seed, 60.0);
        for kv_tokens in [60_000, USUAL_KV, 400_000] {
            for (name, load) in [
                ("exprl", &at_once),
                ("exprl, rollouts arriving over 60 s", &arriving),
            ] {
                let hardware = hardware(kv_tokens);
                let outcome = replay(load, Layout::TraceLast, Client::Scheduler, hardware);
                print(name, seed, kv_tokens, &outcome);
            }
        }
    }
}

/// Four servers that compute 20,000 prompt tokens per second and reply in 2.5 s.
fn hardware(kv_tokens: usize) -> Hardware {
    Hardware {
        servers: 4,
        kv_blocks: kv_tokens / 16,
        prefill_per_s: 20_000.0,
        completion: 128,
        decode_s: 2.5,
        concurrency: 64,
    }
}

fn print(name: &str, seed: u64, kv_tokens: usize, outcome: &Outcome) {
    let mut row = json!(outcome);
    row["name"] = name.into();
    row["seed"] = seed.into();
    row["kv_tokens"] = kv_tokens.into();
    row["share_of_ideal_hits"] = outcome.share_of_ideal_hits().into();
    println!("{row}");
}
