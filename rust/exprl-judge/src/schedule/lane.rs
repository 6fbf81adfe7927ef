//! One server's queue: rollouts grouped by problem, admitted whole into the server's KV cache.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use crate::policy::Window;

/// Tokens that a rollout takes in a server's KV cache while it is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// The head, which the rollouts of one problem share.
    pub shared: u64,
    /// Its trace and the replies.
    pub own: u64,
}

/// A rollout's requests that have not left yet, in the order of its prefixes.
pub(super) struct Unit<R> {
    pub(super) affinity: u64,
    pub(super) need: Need,
    pub(super) requests: VecDeque<R>,
    /// Its number among the admitted ones, once it is one of them.
    admitted: Option<u64>,
}

impl<R> Unit<R> {
    pub(super) fn new(affinity: u64, need: Need, requests: impl Into<VecDeque<R>>) -> Self {
        Self {
            affinity,
            need,
            requests: requests.into(),
            admitted: None,
        }
    }

    fn weight(&self) -> u64 {
        self.need.own + self.need.shared
    }
}

/// A rollout whose blocks the server's cache should hold.
struct Admitted {
    affinity: u64,
    need: Need,
    /// Requests of it that have not come back.
    left: usize,
}

/// One server's queue and what is known about its state.
pub(super) struct Lane<R> {
    /// Rendezvous seed: a hash of the server's URL, so placement survives reordering of endpoints.
    pub(super) seed: u64,
    /// Requests that are sent again: they leave first.
    again: VecDeque<Unit<R>>,
    /// The rollout whose requests are leaving.
    leaving: Option<Unit<R>>,
    /// Rollouts by problem, the problems in the order in which they came.
    groups: BTreeMap<u64, VecDeque<Unit<R>>>,
    /// The group of a problem's affinity.
    group_of: HashMap<u64, u64>,
    next_number: u64,
    admitted: HashMap<u64, Admitted>,
    /// Admitted rollouts by affinity.
    tenants: HashMap<u64, usize>,
    /// Tokens of what is admitted; a head counts once.
    pub(super) held: u64,
    /// Tokens that fit the server's KV cache, if that is known.
    pub(super) capacity: Option<u64>,
    /// Requests queued here.
    pub(super) queued: usize,
    /// Tokens of the queued rollouts.
    queued_tokens: u64,
    pub(super) in_flight: usize,
    pub(super) window: Window,
    pub(super) paused_until: Option<Instant>,
}

impl<R> Lane<R> {
    pub(super) fn new(seed: u64, concurrency: usize) -> Self {
        Self {
            seed,
            again: VecDeque::new(),
            leaving: None,
            groups: BTreeMap::new(),
            group_of: HashMap::new(),
            next_number: 0,
            admitted: HashMap::new(),
            tenants: HashMap::new(),
            held: 0,
            capacity: None,
            queued: 0,
            queued_tokens: 0,
            in_flight: 0,
            window: Window::new(concurrency),
            paused_until: None,
        }
    }

    /// Tokens queued and admitted.
    pub(super) fn load(&self) -> u64 {
        self.queued_tokens + self.held
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    pub(super) fn has_room(&self, now: Instant) -> bool {
        !self.is_paused(now) && self.in_flight < self.window.size()
    }

    /// Whether the server's cache has room for a rollout beside those it works on. A rollout that is
    /// too large for the whole cache goes alone.
    pub(super) fn fits(&self, affinity: u64, need: Need) -> bool {
        let shared = if self.tenants.contains_key(&affinity) {
            0
        } else {
            need.shared
        };
        self.admitted.is_empty()
            || self
                .capacity
                .is_none_or(|capacity| self.held + need.own + shared <= capacity)
    }

    /// Queues a rollout behind the others of its problem.
    pub(super) fn push(&mut self, unit: Unit<R>) {
        self.queued += unit.requests.len();
        self.queued_tokens += unit.weight();
        let group = match self.group_of.entry(unit.affinity) {
            Entry::Occupied(group) => *group.get(),
            Entry::Vacant(place) => {
                self.next_number += 1;
                *place.insert(self.next_number)
            }
        };
        self.groups.entry(group).or_default().push_back(unit);
    }

    /// Queues what leaves before all else.
    pub(super) fn push_first(&mut self, unit: Unit<R>) {
        self.queued += unit.requests.len();
        self.queued_tokens += unit.weight();
        self.again.push_back(unit);
    }

    /// The next request, and the number of its rollout. `None` if nothing is queued, or if the next
    /// rollout must wait for room in the cache.
    pub(super) fn pop(&mut self) -> Option<(u64, R)> {
        if self.leaving.is_none() {
            self.leaving = Some(self.admit()?);
        }
        let unit = self.leaving.as_mut()?;
        let number = unit.admitted?;
        let request = unit.requests.pop_front();
        if unit.requests.is_empty() {
            self.leaving = None;
        }
        let request = request?;
        self.queued -= 1;
        self.in_flight += 1;
        Some((number, request))
    }

    fn admit(&mut self) -> Option<Unit<R>> {
        let again = self.again.front();
        let next = again.or_else(|| self.groups.first_key_value()?.1.front())?;
        if !self.fits(next.affinity, next.need) {
            return None;
        }
        let mut unit = match self.again.pop_front() {
            Some(unit) => unit,
            None => self.take_from_group(*self.groups.first_key_value()?.0, VecDeque::pop_front)?,
        };
        self.queued_tokens -= unit.weight();
        self.next_number += 1;
        unit.admitted = Some(self.next_number);
        self.held += unit.need.own;
        let tenants = self.tenants.entry(unit.affinity).or_default();
        *tenants += 1;
        if *tenants == 1 {
            self.held += unit.need.shared;
        }
        let Unit { affinity, need, .. } = unit;
        let left = unit.requests.len();
        self.admitted.insert(
            self.next_number,
            Admitted {
                affinity,
                need,
                left,
            },
        );
        Some(unit)
    }

    fn take_from_group(
        &mut self,
        group: u64,
        take: impl Fn(&mut VecDeque<Unit<R>>) -> Option<Unit<R>>,
    ) -> Option<Unit<R>> {
        let units = self.groups.get_mut(&group)?;
        let unit = take(units)?;
        if units.is_empty() {
            self.groups.remove(&group);
            self.group_of.remove(&unit.affinity);
        }
        Some(unit)
    }

    /// A request of an admitted rollout came back, or will never leave.
    pub(super) fn release(&mut self, number: u64) {
        let Entry::Occupied(mut admitted) = self.admitted.entry(number) else {
            return;
        };
        admitted.get_mut().left -= 1;
        if admitted.get().left > 0 {
            return;
        }
        let Admitted { affinity, need, .. } = admitted.remove();
        self.held -= need.own;
        if let Entry::Occupied(mut tenants) = self.tenants.entry(affinity) {
            *tenants.get_mut() -= 1;
            if *tenants.get() == 0 {
                tenants.remove();
                self.held -= need.shared;
            }
        }
    }

    /// The rollout that another server may take: the last one that has not begun; of a paused
    /// server also one that has.
    pub(super) fn last(&self, now: Instant) -> Option<&Unit<R>> {
        let queued = self
            .groups
            .last_key_value()
            .and_then(|(_, units)| units.back());
        let stuck = || self.again.back().or(self.leaving.as_ref());
        queued.or_else(|| self.is_paused(now).then(stuck).flatten())
    }

    /// Gives up what `last` shows.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<Unit<R>> {
        let group = self.groups.last_key_value().map(|(&group, _)| group);
        let queued = group.and_then(|group| self.take_from_group(group, VecDeque::pop_back));
        let unit = match queued {
            Some(unit) => Some(unit),
            None if self.is_paused(now) => self.again.pop_back(),
            None => None,
        };
        if let Some(unit) = unit {
            self.queued -= unit.requests.len();
            self.queued_tokens -= unit.weight();
            return Some(unit);
        }
        let mut unit = self.leaving.take_if(|_| self.paused_until > Some(now))?;
        self.queued -= unit.requests.len();
        if let Some(number) = unit.admitted.take() {
            (0..unit.requests.len()).for_each(|_| self.release(number));
        }
        Some(unit)
    }

    /// Takes out every queued request that `matches`.
    pub(super) fn drain(&mut self, matches: impl Fn(&R) -> bool) -> Vec<R> {
        let mut taken = Vec::new();
        let mut sift = |unit: &mut Unit<R>| {
            let before = taken.len();
            let (out, keep) = unit.requests.drain(..).partition(|r| matches(r));
            unit.requests = keep;
            taken.extend::<VecDeque<R>>(out);
            taken.len() - before
        };
        if let Some(mut unit) = self.leaving.take() {
            let gone = sift(&mut unit);
            if let Some(number) = unit.admitted {
                (0..gone).for_each(|_| self.release(number));
            }
            self.leaving = (!unit.requests.is_empty()).then_some(unit);
        }
        self.again.iter_mut().for_each(|unit| _ = sift(unit));
        self.groups
            .values_mut()
            .flatten()
            .for_each(|unit| _ = sift(unit));
        self.again.retain(|unit| !unit.requests.is_empty());
        self.groups.retain(|_, units| {
            units.retain(|unit| !unit.requests.is_empty());
            !units.is_empty()
        });
        self.group_of
            .retain(|_, group| self.groups.contains_key(group));
        let queued = || self.again.iter().chain(self.groups.values().flatten());
        let leaving = self.leaving.as_ref().map_or(0, |unit| unit.requests.len());
        self.queued = leaving + queued().map(|unit| unit.requests.len()).sum::<usize>();
        self.queued_tokens = queued().map(Unit::weight).sum();
        taken
    }
}
