//! A server with continuous batching and a prefix cache of blocks, the least recently used of which
//! are evicted, as vLLM does it.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Tokens of a block (vLLM's default).
pub(super) const BLOCK: usize = 16;

/// The simulated machines.
#[derive(Debug, Clone, Copy)]
pub struct Hardware {
    /// How many servers.
    pub servers: usize,
    /// Blocks of 16 tokens in each server's KV cache.
    pub kv_blocks: usize,
    /// Prompt tokens that a server computes per second.
    pub prefill_per_s: f64,
    /// Tokens of a reply.
    pub completion: usize,
    /// Seconds that a reply takes after its prompt.
    pub decode_s: f64,
    /// Requests in flight per server, at most.
    pub concurrency: usize,
}

#[derive(Default)]
struct Block {
    users: usize,
    /// When it was last let go, as a number of events.
    stamp: u64,
}

struct Running {
    shared: Vec<u64>,
    /// Blocks that nobody else can use: the rest of the prompt, and the reply.
    private: usize,
}

pub(super) struct Server {
    hardware: Hardware,
    blocks: HashMap<u64, Block>,
    /// Blocks without users, the oldest first.
    unused: BTreeMap<u64, u64>,
    /// Blocks in use by running requests.
    used: usize,
    stamp: u64,
    waiting: VecDeque<(usize, Vec<u64>, usize)>,
    running: HashMap<usize, Running>,
    /// When the prompts admitted so far are computed.
    prefill_free: f64,
    pub(super) prefilled: usize,
    pub(super) requests: usize,
    pub(super) last_end: f64,
}

impl Server {
    pub(super) fn new(hardware: Hardware) -> Self {
        Self {
            hardware,
            blocks: HashMap::new(),
            unused: BTreeMap::new(),
            used: 0,
            stamp: 0,
            waiting: VecDeque::new(),
            running: HashMap::new(),
            prefill_free: 0.0,
            prefilled: 0,
            requests: 0,
            last_end: 0.0,
        }
    }

    pub(super) fn arrive(&mut self, number: usize, shared: Vec<u64>, tokens: usize) {
        self.requests += 1;
        self.waiting.push_back((number, shared, tokens));
    }

    /// Starts the waiting requests that memory allows, in order; gives their numbers and ends.
    pub(super) fn start(&mut self, now: f64) -> Vec<(usize, f64)> {
        let mut ends = Vec::new();
        while let Some((_, shared, tokens)) = self.waiting.front() {
            let hits = shared
                .iter()
                .take_while(|id| self.blocks.contains_key(id))
                .count();
            let idle_hits = shared[..hits]
                .iter()
                .filter(|id| self.blocks[id].users == 0)
                .count();
            let private = (tokens + self.hardware.completion).div_ceil(BLOCK) - shared.len();
            let wanted = shared.len() - hits + private;
            if self.used + idle_hits + wanted > self.hardware.kv_blocks && !self.running.is_empty()
            {
                break;
            }
            let Some((number, shared, tokens)) = self.waiting.pop_front() else {
                break;
            };
            self.take(&shared, hits, private);
            let computed = tokens - hits * BLOCK;
            self.prefilled += computed;
            let from = self.prefill_free.max(now);
            self.prefill_free = from + computed as f64 / self.hardware.prefill_per_s;
            ends.push((number, self.prefill_free + self.hardware.decode_s));
            self.running.insert(number, Running { shared, private });
        }
        ends
    }

    fn take(&mut self, shared: &[u64], hits: usize, private: usize) {
        for id in &shared[..hits] {
            if let Some(block) = self.blocks.get_mut(id) {
                if block.users == 0 {
                    self.unused.remove(&block.stamp);
                    self.used += 1;
                }
                block.users += 1;
            }
        }
        self.used += shared.len() - hits + private;
        while self.used + self.unused.len() > self.hardware.kv_blocks {
            let Some((_, oldest)) = self.unused.pop_first() else {
                break;
            };
            self.blocks.remove(&oldest);
        }
        for &id in &shared[hits..] {
            // A later block of a prompt may be there although an earlier one was evicted.
            let block = self.blocks.entry(id).or_default();
            if block.users == 0 && self.unused.remove(&block.stamp).is_none() {
                block.stamp = 0;
            }
            block.users += 1;
        }
    }

    pub(super) fn end(&mut self, number: usize, now: f64) {
        let Some(Running { shared, private }) = self.running.remove(&number) else {
            return;
        };
        self.last_end = now;
        self.used -= private;
        // The end of a prompt is let go first: it is the least likely to be shared.
        for id in shared.into_iter().rev() {
            let Some(block) = self.blocks.get_mut(&id) else {
                continue;
            };
            block.users -= 1;
            if block.users == 0 {
                self.stamp += 1;
                block.stamp = self.stamp;
                self.unused.insert(self.stamp, id);
                self.used -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(kv_blocks: usize) -> Server {
        Server::new(Hardware {
            servers: 1,
            kv_blocks,
            prefill_per_s: 1000.0,
            completion: 0,
            decode_s: 1.0,
            concurrency: 8,
        })
    }

    /// Runs one request alone and gives the tokens that were computed for it.
    fn computed(server: &mut Server, shared: &[u64]) -> usize {
        let before = server.prefilled;
        server.arrive(0, shared.to_vec(), shared.len() * BLOCK + 1);
        assert_eq!(server.start(0.0).len(), 1);
        server.end(0, 1.0);
        assert_eq!(server.used, 0);
        server.prefilled - before
    }

    #[test]
    fn a_prefix_is_computed_once_until_it_is_evicted() {
        let mut server = server(5);
        assert_eq!(computed(&mut server, &[1, 2]), 33);
        assert_eq!(computed(&mut server, &[1, 2, 3]), 17);
        // The oldest blocks go, the end of a prompt before its beginning.
        assert_eq!(computed(&mut server, &[7, 8, 9]), 49);
        assert_eq!(computed(&mut server, &[1, 2, 3]), 33);
    }

    #[test]
    fn what_does_not_fit_waits() {
        let mut server = server(4);
        server.arrive(0, vec![1, 2], 33);
        server.arrive(1, vec![1, 2], 33);
        server.arrive(2, vec![5], 17);
        let started: Vec<usize> = server.start(0.0).into_iter().map(|(n, _)| n).collect();
        assert_eq!(started, [0, 1], "the second shares the first one's blocks");
        server.end(0, 1.0);
        assert!(server.start(1.0).is_empty());
        server.end(1, 1.0);
        assert_eq!(server.start(1.0).len(), 1);
    }
}
