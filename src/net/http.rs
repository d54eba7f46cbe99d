//! HTTP to servers that run a model: one request, one whole answer. Connections are kept and reused; nothing is tried again
//! here, and no error or text it gives out holds the key.

use std::net::TcpListener;
use std::time::Duration;
use ureq::config::ConfigBuilder;
use ureq::http::Response;
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

/// What a server answered, whatever its status.
pub struct Answer {
    pub status: u16,
    /// Of the `Retry-After` header, where it is in seconds.
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

pub struct Http {
    agent: Agent,
    key: Option<String>,
}

const CONNECT: Duration = Duration::from_secs(10);
/// Longest answer read of one that speaks of no tokens.
const BODY_BYTES: u64 = 1 << 20;
/// And for every token it may speak of. The log-probs of a prompt take some 100 to 300 bytes a token.
const TOKEN_BYTES: u64 = 4 << 10;
/// Characters of an answer that an error quotes.
const QUOTED: usize = 300;

fn config(connections: usize) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("mindgap/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT))
        .max_idle_connections_per_host(connections)
        .max_idle_connections(usize::MAX)
}

/// A port of this machine that nobody listens on just now.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Http {
    /// `key` goes into the `Authorization` header, `connections` to one host are kept open.
    pub fn new(key: Option<String>, connections: usize) -> Http {
        Http { agent: config(connections).build().into(), key }
    }

    /// To programs of this machine: no key, and no proxy stands between.
    pub fn direct(connections: usize) -> Http {
        Http { agent: config(connections).proxy(None).build().into(), key: None }
    }

    /// The error is what went wrong, in words: no connection, no answer in time, an answer cut off.
    pub fn get(&self, url: &str, timeout: Duration) -> Result<Answer, String> {
        let request = self.agent.get(url).config().timeout_global(Some(timeout)).build();
        let request = match self.authorization() {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        self.answer(request.call(), 16 * BODY_BYTES)
    }

    /// Sends JSON, and reads an answer about so many tokens.
    pub fn post(&self, url: &str, json: &[u8], tokens: usize, timeout: Duration) -> Result<Answer, String> {
        let request = self.agent.post(url).config().timeout_global(Some(timeout)).build();
        let request = match self.authorization() {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        let longest = BODY_BYTES + TOKEN_BYTES * tokens as u64;
        self.answer(request.header("content-type", "application/json").send(json), longest)
    }

    fn authorization(&self) -> Option<String> {
        self.key.as_ref().map(|key| format!("Bearer {key}"))
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>, longest: u64) -> Result<Answer, String> {
        let failed = |e: ureq::Error| self.redacted(&e.to_string());
        let mut response = response.map_err(failed)?;
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
        let body = response.body_mut().with_config().limit(longest).read_to_vec().map_err(failed)?;
        Ok(Answer { status: response.status().as_u16(), retry_after, body: self.without_key(body) })
    }

    /// The beginning of an answer, on one line, fit for an error.
    pub fn quote(&self, body: &[u8]) -> String {
        let text = self.redacted(&String::from_utf8_lossy(body));
        let words: Vec<&str> = text.split_whitespace().collect();
        let line = words.join(" ");
        match line.char_indices().nth(QUOTED) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        }
    }

    /// Servers and proxies may repeat what they were sent, as it is or as JSON has it.
    fn redacted(&self, text: &str) -> String {
        let Some(key) = self.key.as_ref().filter(|key| !key.is_empty()) else { return text.to_string() };
        let json = serde_json::Value::from(key.as_str()).to_string();
        text.replace(key.as_str(), "***").replace(&json[1..json.len() - 1], "***")
    }

    /// An answer before anything is read from it, so that no part of it can be told with the key.
    fn without_key(&self, body: Vec<u8>) -> Vec<u8> {
        match std::str::from_utf8(&body) {
            Ok(text) if self.key.is_some() => self.redacted(text).into_bytes(),
            _ => body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_hold_no_key() {
        let http = Http::new(Some("sk-secret".to_string()), 1);
        assert_eq!(http.quote(b"<html>\n  bad key:\tsk-secret </html>"), "<html> bad key: *** </html>");
        let quoting = Http::new(Some("a\"b/c".to_string()), 1);
        let body = br#"{"error":"key a\"b/c is wrong","finish_reason":"a\"b/c"}"#.to_vec();
        let read = String::from_utf8(quoting.without_key(body)).unwrap();
        assert_eq!(read, r#"{"error":"key *** is wrong","finish_reason":"***"}"#);
        assert_eq!(http.quote("\u{e9}".repeat(400).as_bytes()).chars().count(), QUOTED + 3);
    }
}
