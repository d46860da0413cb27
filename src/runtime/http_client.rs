//! The one place that makes HTTP clients.
//!
//! Invariant: a request goes to its given address only: no proxy, even if `http_proxy` is set, and
//! no redirect. Every wait and every answer is bounded, so a silent, slow or endless server costs
//! its caller a known amount of time and memory. Clippy refuses `reqwest::Client::new` and
//! `builder` everywhere else.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};

/// Limits of a client's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest silence of an answer under way.
    pub silence: Duration,
    /// Longest time from the request to the last byte of its answer.
    pub whole: Duration,
    /// Largest body of an answer in bytes.
    pub answer_bytes: usize,
}

/// A client that keeps its [`Bounds`]. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: reqwest::Client,
    bounds: Bounds,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status; never a redirect.
    pub status: StatusCode,
    /// Its body.
    pub body: Vec<u8>,
}

/// Why there is no whole answer. Whether the server acted on the request is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection, too long a silence, or an answer that broke off.
    #[error("no whole answer")]
    Broken(#[source] reqwest::Error),
    /// The body is larger than the client takes.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The server sends its clients elsewhere. No node of pghc does, so another server answered.
    #[error(
        "the answer is a redirect (status {}) and is not followed: no node of pghc sends one, so \
         another server listens at this address", .0.as_u16()
    )]
    Redirect(StatusCode),
}

impl Failure {
    /// Whether a bound of time ended the request.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Broken(error) if error.is_timeout())
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // A URL may hold a password.
        Self::Broken(error.without_url())
    }
}

impl HttpClient {
    /// A client with these bounds.
    ///
    /// # Panics
    /// If the system has no randomness to give to the client.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that makes clients")]
    pub fn new(bounds: Bounds) -> Self {
        let client = reqwest::Client::builder()
            .connect_timeout(bounds.connect)
            .read_timeout(bounds.silence)
            .timeout(bounds.whole)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .build();
        Self { client: client.expect("these settings need nothing of the system"), bounds }
    }

    /// A `GET` of `url`, to be sent by [`HttpClient::send`].
    pub fn get(&self, url: &str) -> RequestBuilder {
        self.client.get(url)
    }

    /// A request of `url`, to be sent by [`HttpClient::send`].
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends a request and reads its whole answer.
    ///
    /// # Errors
    /// See [`Failure`]. An answer that says that the request failed is no failure here.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let mut answer = request.send().await?;
        let status = answer.status();
        if status.is_redirection() {
            return Err(Failure::Redirect(status));
        }
        let max = self.bounds.answer_bytes;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > max {
                return Err(Failure::TooLarge(max));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, body })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::{Bounds, Failure, HttpClient};
    use crate::task::Tasks;

    const BOUNDS: Bounds = Bounds {
        connect: Duration::from_secs(20),
        silence: Duration::from_secs(20),
        whole: Duration::from_secs(60),
        answer_bytes: 100_000,
    };

    /// A server that answers every connection with `head` and then `body` without end.
    async fn server(head: &'static str, body: &'static str, tasks: &Tasks) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        tasks.spawn("server", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while !body.is_empty() && stream.write_all(body.as_bytes()).await.is_ok() {}
            }
        });
        url
    }

    async fn fails(bounds: Bounds, url: &str) -> Failure {
        let client = HttpClient::new(bounds);
        client.send(client.get(url)).await.expect_err("no whole answer")
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let tasks = Tasks::default();
        let head =
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let failure = fails(BOUNDS, &server(head, "", &tasks).await).await;
        assert!(matches!(failure, Failure::Redirect(status) if status == 302), "{failure:?}");
        tasks.shut_down().await;
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up_at_its_bound() {
        let tasks = Tasks::default();
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        let url = server(head, "all work and no play ", &tasks).await;
        let failure = fails(BOUNDS, &url).await;
        assert!(matches!(failure, Failure::TooLarge(100_000)), "{failure:?}");
        // The same by time, where the bytes would have room.
        let bounds =
            Bounds { whole: Duration::from_millis(300), answer_bytes: usize::MAX, ..BOUNDS };
        let url = silent(&tasks).await;
        assert!(fails(bounds, &url).await.is_timeout());
        let bounds = Bounds { silence: Duration::from_millis(300), ..BOUNDS };
        assert!(fails(bounds, &url).await.is_timeout());
        tasks.shut_down().await;
    }

    /// A server that promises a body and sends none of it.
    async fn silent(tasks: &Tasks) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        tasks.spawn("silent server", async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
                kept.push(stream);
            }
        });
        url
    }
}
