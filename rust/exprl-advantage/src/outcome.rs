//! One score per rollout: `grpo`, `dr_grpo`, `rloo`, `reinforce`.

use crate::{Batch, Error, Kind, mean};

/// Keeps `grpo` finite where all scores of a group are equal.
const STD_EPSILON: f64 = 1e-6;

pub(crate) fn fill(batch: Batch<'_>, kind: Kind, advantages: &mut [f64]) -> Result<(), Error> {
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
        fill_group(batch, &valid(batch, 0..rollouts), kind, advantages);
        return Ok(());
    }
    for group in batch.groups() {
        fill_group(batch, &valid(batch, group), kind, advantages);
    }
    Ok(())
}

/// With one score per rollout, a rollout's index is its score's.
fn valid(batch: Batch<'_>, rollouts: std::ops::Range<usize>) -> Vec<usize> {
    rollouts
        .filter(|&rollout| !batch.scores[rollout].is_nan())
        .collect()
}

fn fill_group(batch: Batch<'_>, valid: &[usize], kind: Kind, advantages: &mut [f64]) {
    let scores = valid.iter().map(|&index| batch.scores[index]);
    let count = valid.len() as f64;
    let mean = mean(scores.clone());
    let scale = match kind {
        _ if valid.len() < 2 && kind != Kind::Reinforce => 0.0,
        Kind::Grpo => {
            let squares: f64 = scores.map(|score| (score - mean).powi(2)).sum();
            1.0 / ((squares / (count - 1.0)).sqrt() + STD_EPSILON)
        }
        // s_i - (sum - s_i) / (n - 1) = (s_i - mean) n / (n - 1)
        Kind::Rloo => count / (count - 1.0),
        _ => 1.0,
    };
    for &index in valid {
        advantages[index] = (batch.scores[index] - mean) * scale;
    }
}
