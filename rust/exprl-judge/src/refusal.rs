//! What a server refuses, and what to change: read from its status and its own words.

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// The prompt does not fit the model's context, or the server's longest body.
    Context {
        /// Tokens that fit, if the server names them.
        limit: Option<u64>,
        /// The tokens that the reply may take are counted with the prompt's.
        with_reply: bool,
    },
    /// `max_tokens` alone is more than the model can write.
    ReplyLimit,
    /// The server wants `max_completion_tokens` in place of `max_tokens`.
    NameOfMaxTokens,
    /// Another temperature is wanted.
    Temperature,
    /// Another field of the request.
    Field,
    /// The key is missing or wrong, or may not do this.
    Key,
    /// The proxy wants a password.
    Proxy,
    /// Nothing is paid for.
    Credit,
    /// There is no such address or model.
    Address,
    /// The server is elsewhere.
    Redirect,
    /// Anything else.
    Other,
}

/// The code of a 429 that no waiting cures (`OpenAI`); messages begin with their code.
pub(crate) const QUOTA: &str = "insufficient_quota";

/// How servers say that a prompt is too long: vLLM, `SGLang`, llama.cpp, TGI, and the usual hosts.
const CONTEXT: [&str; 15] = [
    "context length",
    "context_length",
    "context window",
    "context size",
    "maximum context",
    "max context",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "input token count",
    "input length",
    "`max_new_tokens` must be",
    "too large for model",
    "max_tokens must be at least",
    "reduce the length",
];
/// How servers say that they do not take a field.
const UNKNOWN: [&str; 8] = [
    "instead",
    "unsupported",
    "not supported",
    "unrecognized",
    "unknown",
    "unexpected",
    "not permitted",
    "not allowed",
];
/// The names of the limit of a reply.
const REPLY: [&str; 5] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "maxoutputtokens",
    "max_new_tokens",
];
/// What stands before the number of tokens that fit.
const BEFORE_LIMIT: [&str; 9] = [
    "context length is",
    "context length of",
    "context length (",
    "context window of",
    "context window (",
    "context size (",
    "must be <=",
    "number of tokens allowed (",
    " tokens > ",
];

impl Complaint {
    pub(crate) fn read(code: u16, message: &str) -> Self {
        let said = message.to_ascii_lowercase();
        let names = |words: &[&str]| words.iter().any(|word| said.contains(word));
        match code {
            300..=399 => Self::Redirect,
            401 | 403 => Self::Key,
            407 => Self::Proxy,
            402 => Self::Credit,
            429 if said.starts_with(QUOTA) => Self::Credit,
            404 | 405 => Self::Address,
            400 | 422
                if names(&["max_tokens"])
                    && names(&UNKNOWN)
                    && !names(&CONTEXT)
                    && !names(&["too large", "greater than"]) =>
            {
                Self::NameOfMaxTokens
            }
            400 | 413 | 422 if code == 413 || names(&CONTEXT) => Self::Context {
                limit: limit(&said),
                with_reply: names(&["completion", "max_tokens", "max_new_tokens"])
                    && !names(&["without any output"]),
            },
            400 | 422 if names(&REPLY) => Self::ReplyLimit,
            400 | 422 if names(&["temperature"]) => Self::Temperature,
            400 | 422 => Self::Field,
            _ => Self::Other,
        }
    }

    /// What to change, to stand behind the server's words; empty where nothing is known.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Context {
                with_reply: true, ..
            } => {
                "; lower judge.max_tokens (--max-tokens), shorten the traces, or serve the judge with a \
                 longer context"
            }
            Self::Context { .. } => {
                "; shorten the traces (in training rollout.max_response_tokens), or serve the judge with \
                 a longer context"
            }
            Self::ReplyLimit => {
                "; lower judge.max_tokens (--max-tokens), or serve the judge with a longer context"
            }
            Self::NameOfMaxTokens => {
                "; it takes neither max_tokens nor max_completion_tokens: check judge.model"
            }
            Self::Temperature => {
                "; set judge.temperature (--temperature) to what the model takes; many that think take 1 only"
            }
            Self::Field => {
                "; the server refuses a field of the request: check model, readout and extra \
                 (readout = \"direct\" needs structured_outputs, which vLLM takes)"
            }
            Self::Key => "; check the API key and what it may use",
            Self::Proxy => "; check the user and the password in the environment's proxy URL",
            Self::Credit => "; the key has no credit left",
            Self::Address => {
                "; check that the endpoint ends in /v1 and that the server has this model"
            }
            Self::Redirect => "; redirects are not followed: give the final URL as the endpoint",
            Self::Other => "",
        }
    }

    /// How many such refusals in a row, from a server that has never graded anything, show that it will
    /// grade nothing; `None` if they are about single requests.
    pub(crate) fn enough(self) -> Option<u32> {
        match self {
            Self::Key | Self::Proxy | Self::Credit | Self::Address | Self::Redirect => Some(4),
            // A content filter answers like this too, for one request and not for the next.
            Self::ReplyLimit | Self::NameOfMaxTokens | Self::Temperature | Self::Field => Some(16),
            Self::Context { .. } | Self::Other => None,
        }
    }
}

/// Tokens that fit, from a message in small letters.
fn limit(said: &str) -> Option<u64> {
    let number = |text: &str| {
        let text = text.trim_start_matches(|c: char| !c.is_alphanumeric());
        let digits: String = text
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == ',' || *c == '_')
            .filter(char::is_ascii_digit)
            .collect();
        digits.parse().ok().filter(|&tokens| tokens > 0)
    };
    let after = BEFORE_LIMIT
        .iter()
        .find_map(|words| number(said.split_once(words)?.1));
    // "too large for model with 32768 maximum context length"
    after.or_else(|| number(said.split_once("too large for model with ")?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(limit: impl Into<Option<u64>>, with_reply: bool) -> Complaint {
        Complaint::Context {
            limit: limit.into(),
            with_reply,
        }
    }

    #[test]
    fn servers_say_in_many_ways_that_a_prompt_is_too_long() {
        for (message, expected) in [
            (
                "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (2952 in the messages, 2048 in the completion).",
                context(4096, true),
            ),
            (
                "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens, which exceeds this limit even without any output tokens.",
                context(8192, false),
            ),
            (
                "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum context length is 4096 tokens and your request has 2952 input tokens (2048 > 4096 - 2952).",
                context(4096, true),
            ),
            (
                "Input length (9000) exceeds model's maximum context length (8192).",
                context(8192, false),
            ),
            (
                "The input (9001 tokens) is longer than the model's context length (8,192 tokens).",
                context(8192, false),
            ),
            (
                "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens: 2952 tokens from the input messages and 2048 tokens for the completion.",
                context(4096, true),
            ),
            (
                "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 `inputs` tokens and 2048 `max_new_tokens`",
                context(4096, true),
            ),
            (
                "the request exceeds the available context size (4096 tokens), try increasing it",
                context(4096, false),
            ),
            (
                "prompt is too long: 210000 tokens > 200000 maximum",
                context(200_000, false),
            ),
            (
                "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
                context(32_768, false),
            ),
            (
                "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
                context(32_768, false),
            ),
            ("context_length_exceeded", context(None, false)),
            (
                "max_tokens must be at least 1, got -123",
                context(None, true),
            ),
        ] {
            assert_eq!(Complaint::read(400, message), expected, "{message}");
            assert!(expected.remedy().contains("longer context"));
        }
        assert_eq!(Complaint::read(413, "too large"), context(None, false));
    }

    #[test]
    fn a_limit_of_the_reply_names_max_tokens_and_says_to_lower_it() {
        for message in [
            "max_tokens=2048 cannot be greater than max_model_len=1024. Please request fewer output tokens.",
            "max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you provided 100000.",
            "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
            "max_completion_tokens is too large",
            "max_tokens is too large for this model; use a smaller number instead",
        ] {
            let complaint = Complaint::read(400, message);
            assert_eq!(complaint, Complaint::ReplyLimit, "{message}");
            assert!(complaint.remedy().contains("lower judge.max_tokens"));
        }
    }

    #[test]
    fn a_server_that_wants_the_other_name_is_understood() {
        for message in [
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "max_tokens is not supported; please use max_completion_tokens",
            "Unrecognized request argument supplied: max_tokens",
            "Unknown parameter: 'max_tokens'.",
            "body.max_tokens: Extra inputs are not permitted",
        ] {
            let complaint = Complaint::read(400, message);
            assert_eq!(complaint, Complaint::NameOfMaxTokens, "{message}");
        }
    }

    #[test]
    fn other_refusals_name_what_to_check() {
        for (code, message, words) in [
            (401, "", "API key"),
            (403, "", "API key"),
            (402, "", "credit"),
            (
                429,
                "insufficient_quota: You exceeded your current quota",
                "credit",
            ),
            (404, "the model m does not exist", "/v1"),
            (307, "", "redirects"),
            (
                400,
                "Unsupported value: 'temperature' does not support 0 with this model.",
                "judge.temperature",
            ),
            (422, "Extra inputs are not permitted", "extra"),
            (418, "I am a teapot", ""),
        ] {
            let remedy = Complaint::read(code, message).remedy();
            assert!(remedy.contains(words), "{code} {message}: {remedy}");
            assert_eq!(remedy.is_empty(), words.is_empty());
        }
    }
}
