//! A lean HTTP/1.1 client: one keep-alive connection, requests as prepared bytes. A connection that
//! broke, or whose exchange was given up, is closed, and the next exchange opens another one.
//!
//! The generator shares the machine with the measured system, so a request costs one write, one
//! read and no allocation. The parser handles only the HTTP of pghc's answers: a status line,
//! `Content-Length` or chunks, `Connection: close`. No redirects, no TLS.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

/// Most bytes of an answer's status line and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Most bytes of an answer's body.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Requests up to this size are written before the answer is read; larger ones are written while
/// the answer is read, because a server that answers early would otherwise block, as would the
/// client.
const WRITE_FIRST_BYTES_MAX: usize = 16 << 10;

/// A connection to one address, open or not.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    /// Taken out during an exchange, so that only a whole one keeps the stream.
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

/// An answer, as long as the connection is not used again.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// The body, without chunk borders.
    pub body: &'a [u8],
    /// The server's own timing, as sent (`Server-Timing`).
    pub timing: Option<&'a str>,
}

/// Fields of a response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    length: usize,
    chunked: bool,
    closes: bool,
    /// Position of the value of `Server-Timing` in the head.
    timing: Option<(usize, usize)>,
}

impl Connection {
    /// A connection that the first exchange opens.
    #[must_use]
    pub const fn to(address: SocketAddr) -> Self {
        Self { address, stream: None, received: Vec::new() }
    }

    /// Connects.
    ///
    /// # Errors
    /// When the connection is refused. Nothing was sent.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let (stream, received) = (Some(connect(address).await?), Vec::with_capacity(4 << 10));
        Ok(Self { address, stream, received })
    }

    /// Whether the next exchange needs no new connection, as far as is known.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Sends one whole request, head and body, and waits for its answer. The caller bounds the wait.
    ///
    /// # Errors
    /// When the connection was refused or broke, or the answer is not HTTP; whether the server
    /// acted is unknown.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.received.clear();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.address).await?,
        };
        let head = if request.len() <= WRITE_FIRST_BYTES_MAX {
            stream.write_all(request).await?;
            receive(&mut stream.split().0, &mut self.received).await?
        } else {
            let (mut read, mut write) = stream.split();
            let receiving = receive(&mut read, &mut self.received);
            tokio::try_join!(write.write_all(request), receiving)?.1
        };
        self.stream = (!head.closes).then_some(stream);
        let body = &self.received[head.bytes..head.bytes + head.length];
        let timing = head.timing.and_then(|(from, to)| self.received.get(from..to));
        let timing = timing.and_then(|bytes| std::str::from_utf8(bytes).ok());
        Ok(Answer { status: head.status, body, timing })
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one answer into `received`; chunks are joined in place. `length` of the head answered is
/// the body's.
async fn receive(from: &mut ReadHalf<'_>, received: &mut Vec<u8>) -> io::Result<Head> {
    let mut head = loop {
        more(from, received).await?;
        if let Some(end) = find(received, b"\r\n\r\n") {
            break parse_head(&received[..end + 2])?;
        }
        if received.len() > HEAD_BYTES_MAX {
            return Err(broken("the answer's headers do not end"));
        }
    };
    if head.chunked {
        head.length = receive_chunks(from, received, head.bytes).await?;
        return Ok(head);
    }
    while received.len() < head.bytes + head.length {
        more(from, received).await?;
    }
    Ok(head)
}

/// Reads chunks from `start` on and joins them there; returns the joined length.
async fn receive_chunks(
    from: &mut ReadHalf<'_>,
    received: &mut Vec<u8>,
    start: usize,
) -> io::Result<usize> {
    let (mut written, mut at) = (start, start);
    loop {
        let line = loop {
            match find(&received[at..], b"\r\n") {
                Some(length) => break at..at + length,
                None => more(from, received).await?,
            }
        };
        let size = std::str::from_utf8(&received[line.clone()]).ok().and_then(|text| {
            usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16).ok()
        });
        let Some(size) = size.filter(|size| written - start + size <= BODY_BYTES_MAX) else {
            return Err(broken("the answer has a bad chunk"));
        };
        let data = line.end + 2;
        // The chunk's own line end, and after the last chunk that of the empty trailer.
        while received.len() < data + size + 2 {
            more(from, received).await?;
        }
        if size == 0 {
            return Ok(written - start);
        }
        received.copy_within(data..data + size, written);
        written += size;
        at = data + size + 2;
    }
}

async fn more(from: &mut ReadHalf<'_>, received: &mut Vec<u8>) -> io::Result<()> {
    received.reserve(4 << 10);
    match from.read_buf(received).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Parses a status line and headers, each with its line end.
fn parse_head(text: &[u8]) -> io::Result<Head> {
    let bytes = text.len() + 2;
    let mut head =
        Head { status: 0, bytes, length: 0, chunked: false, closes: false, timing: None };
    let text = std::str::from_utf8(text).map_err(|_| broken("the answer's head is not text"))?;
    let mut lines = text.split_terminator("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse().ok());
    head.status = status.ok_or_else(|| broken("the answer is not HTTP/1.1"))?;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            head.length = value.parse().map_err(|_| broken("the answer has a bad length"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            head.closes = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("server-timing") {
            let from = value.as_ptr() as usize - text.as_ptr() as usize;
            head.timing = Some((from, from + value.len()));
        }
    }
    if head.length > BODY_BYTES_MAX {
        return Err(broken("the answer is too large"));
    }
    Ok(head)
}

fn broken(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Bytes of a `POST` without a body.
#[must_use]
pub fn post_empty(host: &str, path: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

/// Bytes of a `GET`.
#[must_use]
pub fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Bytes of a `POST` with a body, under an idempotency key when one is given.
#[must_use]
pub fn post(host: &str, path: &str, media_type: &str, key: Option<&str>, body: &[u8]) -> Vec<u8> {
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {media_type}\r\n{key}\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

#[cfg(test)]
mod tests {
    use pghc_runtime::task::Tasks;

    use super::{Connection, get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Sends `answer` in pieces of `piece` bytes to one request and says what the client made of it.
    async fn check(answer: &'static str, piece: usize) -> std::io::Result<(u16, String, bool)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tasks = Tasks::default();
        tasks.spawn("server", async move {
            let (mut stream, _) = listener.accept().await.expect("the client connects");
            let arrived = stream.read(&mut [0; 1000]).await.expect("the request arrives");
            assert!(arrived > 0, "the client closed before it asked");
            for bytes in answer.as_bytes().chunks(piece) {
                stream.write_all(bytes).await.expect("the client reads");
                tokio::task::yield_now().await;
            }
        });
        let mut connection = Connection::open(address).await?;
        let got = connection.exchange(&get("host", "/")).await?;
        let (status, body) = (got.status, String::from_utf8_lossy(got.body).into_owned());
        Ok((status, body, !connection.is_open()))
    }

    #[tokio::test]
    async fn an_answer_is_understood_however_it_arrives() {
        for piece in [1, 7, 1000] {
            let got = check("HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabc", piece).await;
            assert_eq!(got.expect("an answer"), (201, "abc".to_owned(), false));
            let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                          4\r\nab\r\n\r\n2;x=1\r\ncd\r\n0\r\n\r\n";
            let got = check(chunks, piece).await;
            assert_eq!(got.expect("an answer"), (200, "ab\r\ncd".to_owned(), true));
            let got = check("HTTP/1.1 504 \r\nContent-Length: 0\r\n\r\n", piece).await;
            assert_eq!(got.expect("an answer"), (504, String::new(), false));
        }
    }

    #[tokio::test]
    async fn incomplete_response_is_an_error() {
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        ] {
            assert!(check(bad, 1000).await.is_err(), "{bad:?}");
        }
    }

    /// As a bulk request does: neither side can take all of the other's bytes before it speaks.
    #[tokio::test]
    async fn a_large_request_is_written_while_its_answer_is_read() {
        const CHUNK: usize = 1 << 16;
        const CHUNKS: usize = 256;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let tasks = Tasks::default();
        tasks.spawn("server", async move {
            let (mut stream, _) = listener.accept().await.expect("the client connects");
            let mut head = [0; 100];
            stream.read_exact(&mut head).await.expect("the request begins");
            let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(answer).await.expect("the client reads");
            let mut bytes = vec![0; CHUNK];
            for _ in 0..CHUNKS {
                stream.read_exact(&mut bytes).await.expect("the request goes on");
                stream.write_all(b"10000\r\n").await.expect("the client reads");
                stream.write_all(&bytes).await.expect("the client reads");
                stream.write_all(b"\r\n").await.expect("the client reads");
            }
            stream.write_all(b"0\r\n\r\n").await.expect("the client reads");
        });
        let mut connection = Connection::open(address).await.expect("a listener");
        let request = vec![b'x'; 100 + CHUNK * CHUNKS];
        let answer = connection.exchange(&request).await.expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, CHUNK * CHUNKS));
    }

    #[test]
    fn the_time_that_a_server_tells_is_found_in_the_head() {
        let text = b"HTTP/1.1 200 OK\r\nserver-timing: apply;dur=1.5, push;dur=2\r\n";
        let (from, to) = super::parse_head(text).expect("a head").timing.expect("a timing");
        assert_eq!(&text[from..to], b"apply;dur=1.5, push;dur=2");
    }

    #[test]
    fn write_request_carries_key_with_length() {
        let bytes = post("h:1", "/v1/chain", "application/json", Some("k-1"), b"{}");
        assert_eq!(
            String::from_utf8(bytes).expect("plain text"),
            "POST /v1/chain HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\n\
             Idempotency-Key: k-1\r\nContent-Length: 2\r\n\r\n{}"
        );
    }
}
