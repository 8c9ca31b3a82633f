//! A plain bulk stream over TCP, with or without TLS 1.3: what a fabric's streams are compared with.
//!
//! ```text
//! dunix-bench-peer serve tcp|tls                      prints PORT and, for tls, the certificate
//! dunix-bench-peer send tcp|tls ADDRESS PORT BYTES [CERTIFICATE]
//! ```
//!
//! Both print `seconds CPU-seconds` at the end. Blocking threads and writes of 64 KiB: the least that
//! any design can cost. Addresses are link-local: the interface is the one that has one.

use anyhow::{Context, Result, bail};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream},
    sync::Arc,
    time::Instant,
};

const CHUNK_BYTES: usize = 64 << 10;
/// The name in the certificate, which is made for one run.
const NAME: &str = "peer";
/// Clock ticks a second in /proc (proc(5), `sysconf(_SC_CLK_TCK)`): 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["serve", "tcp"] => serve(None),
        ["serve", "tls"] => serve(Some(&certificate()?)),
        ["send", "tcp", address, port, bytes] => send(address, port, bytes, None),
        ["send", "tls", address, port, bytes, cert] => send(address, port, bytes, Some(cert)),
        _ => bail!("usage: serve tcp|tls, or send tcp|tls ADDRESS PORT BYTES [CERTIFICATE]"),
    }
}

struct Identity {
    certificate: CertificateDer<'static>,
    config: Arc<ServerConfig>,
}

fn certificate() -> Result<Identity> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    Ok(Identity { certificate, config: Arc::new(config) })
}

fn serve(identity: Option<&Identity>) -> Result<()> {
    let listener = TcpListener::bind("[::]:0")?;
    let hex = identity.map_or_else(String::new, |identity| to_hex(&identity.certificate));
    println!("{} {hex}", listener.local_addr()?.port());
    let (stream, _) = listener.accept()?;
    let start = Instant::now();
    match identity {
        None => swallow(stream)?,
        Some(identity) => {
            let session = ServerConnection::new(Arc::clone(&identity.config))?;
            swallow(StreamOwned::new(session, stream))?;
        }
    }
    report(start)
}

fn send(address: &str, port: &str, bytes: &str, certificate: Option<&str>) -> Result<()> {
    let address: Ipv6Addr = address.parse()?;
    let target = SocketAddrV6::new(address, port.parse()?, 0, interface()?);
    let bytes = bytes.parse()?;
    let stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    let start = Instant::now();
    match certificate {
        None => pour(stream, bytes)?,
        Some(certificate) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(from_hex(certificate)?))?;
            let config =
                ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            let session = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME)?)?;
            pour(StreamOwned::new(session, stream), bytes)?;
        }
    }
    report(start)
}

/// Sends zeros and waits until the peer has them all.
fn pour(mut stream: impl Read + Write, bytes: u64) -> Result<()> {
    let chunk = vec![0; CHUNK_BYTES];
    stream.write_all(&bytes.to_le_bytes())?;
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        stream.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    stream.flush()?;
    stream.read_exact(&mut [0]).context("no answer")
}

fn swallow(mut stream: impl Read + Write) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut announced = [0; 8];
    stream.read_exact(&mut announced)?;
    let mut left = u64::from_le_bytes(announced);
    while left > 0 {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            bail!("{left} bytes are missing");
        }
        left = left.saturating_sub(length as u64);
    }
    stream.write_all(&[1])?;
    Ok(stream.flush()?)
}

fn report(start: Instant) -> Result<()> {
    println!("{:.6} {:.2}", start.elapsed().as_secs_f64(), cpu_seconds()?);
    Ok(())
}

/// User and system time of this process (proc(5), `/proc/self/stat`, fields 14 and 15).
fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat")?;
    let field = |index: usize| fields.split(' ').nth(index).and_then(|text| text.parse().ok());
    let (user, system): (f64, f64) = field(11).zip(field(12)).context("/proc/self/stat")?;
    Ok((user + system) / TICKS_PER_SECOND)
}

/// Index of the interface with a link-local address (`/proc/net/if_inet6`: address, index, prefix
/// length, scope, flags, name).
fn interface() -> Result<u32> {
    let list = fs::read_to_string("/proc/self/net/if_inet6")?;
    let line =
        list.lines().find(|line| line.starts_with("fe80")).context("no link-local address")?;
    let index = line.split_whitespace().nth(1).context("if_inet6")?;
    Ok(u32::from_str_radix(index, 16)?)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
