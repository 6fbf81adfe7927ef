//! One score per rollout: `grpo`, `dr_grpo`, `rloo`, `reinforce`.

use crate::{Batch, Error, Kind, inverse_spread, mean};

pub(crate) fn fill(
    batch: Batch<'_>,
    kind: Kind,
    floor: f64,
    advantages: &mut [f64],
) -> Result<(), Error> {
    for (rollout, bounds) in batch.seg_off.windows(2).enumerate() {
        let segments = bounds[1] - bounds[0];
        if segments != 1 {
            return Err(Error::NotOneSegment {
                rollout,
                segments,
                kind: kind.name(),
            });
        }
    }
    let rollouts = batch.seg_off.len() - 1;
    if kind == Kind::Reinforce {
        fill_group(batch, &valid(batch, 0..rollouts), kind, floor, advantages);
        return Ok(());
    }
    for group in batch.groups() {
        fill_group(batch, &valid(batch, group), kind, floor, advantages);
    }
    Ok(())
}

/// With one score per rollout, a rollout's index is its score's.
fn valid(batch: Batch<'_>, rollouts: std::ops::Range<usize>) -> Vec<usize> {
    rollouts
        .filter(|&rollout| !batch.scores[rollout].is_nan())
        .collect()
}

fn fill_group(batch: Batch<'_>, valid: &[usize], kind: Kind, floor: f64, advantages: &mut [f64]) {
    let scores = valid.iter().map(|&index| batch.scores[index]);
    let count = valid.len() as f64;
    let mean = mean(scores.clone());
    let scale = match kind {
        _ if valid.len() < 2 && kind != Kind::Reinforce => 0.0,
        Kind::Grpo => inverse_spread(scores, mean, floor),
        // s_i - (sum - s_i) / (n - 1) = (s_i - mean) n / (n - 1)
        Kind::Rloo => count / (count - 1.0),
        _ => 1.0,
    };
    for &index in valid {
        advantages[index] = (batch.scores[index] - mean) * scale;
    }
}
