//! The servers: how to reach them, and what they tell about themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::policy::Fault;
use crate::request::{Body, ReplyLimit, front};
use crate::settings::Settings;
use crate::transport::{Answer, Server, Transport};

pub(super) struct Servers {
    transport: Transport,
    pub(super) all: Vec<Server>,
    model: String,
    /// They are asked what they hold when the first request leaves.
    unasked: AtomicBool,
    /// The size of their KV cache is a setting.
    knows_capacity: bool,
    /// Those that take `max_completion_tokens` in place of `max_tokens`.
    other_name: Vec<AtomicBool>,
}

impl Servers {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let (transport, all) = Transport::new(settings)?;
        Ok(Self {
            transport,
            model: settings.model.clone(),
            unasked: AtomicBool::new(true),
            knows_capacity: settings.kv_tokens.is_some(),
            other_name: all.iter().map(|_| AtomicBool::default()).collect(),
            all,
        })
    }

    pub(super) fn name(&self, lane: usize) -> &Arc<str> {
        &self.all[lane].name
    }

    /// What decides which problems a server gets: a hash of its name, so that the order of the endpoints
    /// does not matter.
    pub(super) fn seeds(&self) -> impl ExactSizeIterator<Item = u64> {
        let names = self.all.iter().map(|server| server.name.as_bytes());
        names.map(|name| front(blake3::hash(name).as_bytes()))
    }

    /// One exchange with one server.
    pub(super) async fn post(
        &self,
        lane: usize,
        body: &Body,
        begun: &AtomicBool,
    ) -> Result<Answer, Fault> {
        self.transport.post(&self.all[lane], body, begun).await
    }

    /// Whether the servers should be asked what they hold; true once.
    pub(super) fn are_unasked(&self) -> bool {
        self.unasked.swap(false, Ordering::Relaxed)
    }

    /// How many tokens the model's context holds at a server, as vLLM tells it on `/v1/models`.
    pub(super) async fn context(&self, lane: usize) -> Option<u64> {
        let list = self.transport.models(&self.all[lane]).await?;
        context_of(&self.model, &list)
    }

    /// How many tokens a server's KV cache holds, as vLLM tells it on `/metrics`.
    pub(super) async fn capacity(&self, lane: usize) -> Option<u64> {
        if self.knows_capacity {
            return None;
        }
        let page = self.transport.metrics(&self.all[lane]).await?;
        kv_tokens(&String::from_utf8_lossy(&page))
    }

    /// What a server calls the limit of a reply.
    pub(super) fn reply_limit(&self, lane: usize) -> ReplyLimit {
        if self.other_name[lane].load(Ordering::Relaxed) {
            ReplyLimit::MaxCompletionTokens
        } else {
            ReplyLimit::MaxTokens
        }
    }

    /// The server has refused `max_tokens` and asked for the other name.
    pub(super) fn rename_reply_limit(&self, lane: usize) {
        self.other_name[lane].store(true, Ordering::Relaxed);
    }
}

/// `max_model_len` of a model in the list that a server gives.
fn context_of(model: &str, list: &[u8]) -> Option<u64> {
    let list: serde_json::Value = serde_json::from_slice(list).ok()?;
    let mut models = list["data"].as_array()?.iter();
    let ours = models.find(|entry| entry["id"] == model)?;
    ours["max_model_len"].as_u64().filter(|&tokens| tokens > 0)
}

/// Reads `vllm:cache_config_info` (vLLM 0.10 to 0.32): the size in tokens of each engine, or blocks
/// (of all engines together) times their size.
fn kv_tokens(metrics: &str) -> Option<u64> {
    let mut lines = metrics
        .lines()
        .filter(|line| line.starts_with("vllm:cache_config_info{"))
        .peekable();
    let label = |line: &str, name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split_once('"')?.0.parse().ok()
    };
    let first = *lines.peek()?;
    let blocks = || label(first, "num_gpu_blocks")?.checked_mul(label(first, "block_size")?);
    let mut sizes = lines.map(|line| label(line, "kv_cache_size_tokens"));
    let sizes = sizes.try_fold(0, |sum: u64, size| sum.checked_add(size?));
    sizes.or_else(blocks).filter(|&tokens| tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_models_tells_the_context_of_ours() {
        let list = br#"{"data": [{"id": "other", "max_model_len": 9}, {"id": "ours", "max_model_len": 4096}]}"#;
        assert_eq!(context_of("ours", list), Some(4096));
        for (model, list) in [
            ("theirs", &list[..]),
            ("ours", br#"{"data": [{"id": "ours"}]}"#),
            (
                "ours",
                br#"{"data": [{"id": "ours", "max_model_len": null}]}"#,
            ),
            ("ours", br#"{"data": [{"id": "ours", "max_model_len": 0}]}"#),
            ("ours", br#"{"models": []}"#),
            ("ours", b"not found"),
        ] {
            assert_eq!(context_of(model, list), None);
        }
    }

    #[test]
    fn vllm_tells_the_size_of_its_cache() {
        let page = "# TYPE vllm:cache_config_info gauge\n\
            vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"1000\",num_gpu_blocks_override=\"None\"} 1.0\n";
        assert_eq!(kv_tokens(page), Some(16_000));
        let two = "vllm:cache_config_info{block_size=\"16\",kv_cache_size_tokens=\"5000\",num_gpu_blocks=\"9\"} 1.0\n\
            vllm:cache_config_info{block_size=\"16\",kv_cache_size_tokens=\"6000\",num_gpu_blocks=\"9\"} 1.0\n";
        assert_eq!(kv_tokens(two), Some(11_000));
        for silent in [
            "",
            "up 1\n",
            "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1.0\n",
            "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"9999999999999999999\"} 1.0\n",
        ] {
            assert_eq!(kv_tokens(silent), None);
        }
    }
}
