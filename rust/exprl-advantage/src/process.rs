//! One score per segment: `delta`, `end`, `group`, `batch`, `raw`, `first_error`, `step+outcome`.

use std::ops::Range;

use crate::{Batch, Error, Published, Settings, SingleSegment, inverse_spread, mean};

/// The score of a grade of 4: what `first_error` asks of a step.
const RIGHT: f64 = 0.75;

pub(crate) fn delta(batch: Batch<'_>, settings: Settings, advantages: &mut [f64]) {
    let single_segment = match settings.published {
        Some(_) => SingleSegment::Score,
        None => settings.single_segment,
    };
    for group in batch.groups() {
        let finals = batch
            .valid(group.clone())
            .map(|segments| batch.scores[segments.end - 1]);
        let mean_final = mean(finals);
        for segments in batch.valid(group) {
            let scores = &batch.scores[segments.clone()];
            let advantages = &mut advantages[segments];
            if let [score] = scores {
                advantages[0] = match single_segment {
                    SingleSegment::Zero => 0.0,
                    SingleSegment::Score => *score,
                    SingleSegment::Group => score - mean_final,
                };
                continue;
            }
            advantages[0] = scores[0] - scores[scores.len() - 1];
            for (advantage, pair) in advantages[1..].iter_mut().zip(scores.windows(2)) {
                *advantage = pair[1] - pair[0];
            }
        }
    }
}

/// `published` subtracts the final score from the last segment as well, and takes every score of a
/// rollout that was cut by length for 0, but not the final score that it subtracts.
pub(crate) fn end(batch: Batch<'_>, published: bool, advantages: &mut [f64]) {
    for rollout in 0..batch.seg_off.len() - 1 {
        let overlong = published && batch.overlong.get(rollout).is_some_and(|&cut| cut);
        for segments in batch.valid(rollout..rollout + 1) {
            let last = segments.end - 1;
            let final_score = batch.scores[last];
            for index in segments {
                let score = if overlong { 0.0 } else { batch.scores[index] };
                advantages[index] = score - final_score;
            }
            if !published {
                advantages[last] = final_score;
            }
        }
    }
}

pub(crate) fn group(
    batch: Batch<'_>,
    published: Option<Published>,
    advantages: &mut [f64],
) -> Result<(), Error> {
    let divisor = match published {
        None => 1,
        Some(Published { response_width }) => response_width
            .filter(|&width| width > 0)
            .ok_or(Error::NoResponseWidth)?,
    };
    for group in batch.groups() {
        let baseline = mean_score(batch, group.clone()) / divisor as f64;
        for index in batch.valid(group).flatten() {
            advantages[index] = batch.scores[index] - baseline;
        }
    }
    Ok(())
}

pub(crate) fn batch(batch: Batch<'_>, advantages: &mut [f64]) {
    let all = 0..batch.seg_off.len() - 1;
    let baseline = mean_score(batch, all.clone());
    for index in batch.valid(all).flatten() {
        advantages[index] = batch.scores[index] - baseline;
    }
}

pub(crate) fn raw(batch: Batch<'_>, advantages: &mut [f64]) {
    for index in batch.valid(0..batch.seg_off.len() - 1).flatten() {
        advantages[index] = batch.scores[index];
    }
}

pub(crate) fn first_error(batch: Batch<'_>, advantages: &mut [f64]) {
    for segments in batch.valid(0..batch.seg_off.len() - 1) {
        let mut credit = 1.0;
        for index in segments {
            if credit > 0.0 && batch.scores[index] < RIGHT {
                advantages[index] = -1.0;
                credit = 0.0;
            } else {
                advantages[index] = credit;
            }
        }
    }
}

pub(crate) fn step_outcome(batch: Batch<'_>, settings: Settings, advantages: &mut [f64]) {
    let floor = settings.floor();
    for group in batch.groups() {
        let rollouts = batch.valid(group);
        let steps = rollouts.clone().flatten().map(|index| batch.scores[index]);
        let finals = rollouts
            .clone()
            .map(|segments| batch.scores[segments.end - 1]);
        let (step_mean, final_mean) = (mean(steps.clone()), mean(finals.clone()));
        let step_scale = inverse_spread(steps, step_mean, floor);
        let final_scale = settings.outcome_weight * inverse_spread(finals, final_mean, floor);
        for segments in rollouts {
            let outcome = (batch.scores[segments.end - 1] - final_mean) * final_scale;
            for index in segments {
                advantages[index] = (batch.scores[index] - step_mean) * step_scale + outcome;
            }
        }
    }
}

/// The mean over valid rollouts of the mean of their scores.
fn mean_score(batch: Batch<'_>, rollouts: Range<usize>) -> f64 {
    mean(
        batch
            .valid(rollouts)
            .map(|segments| mean(batch.scores[segments].iter().copied())),
    )
}
