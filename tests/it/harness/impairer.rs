//! A UDP proxy that makes a path as bad as a test wants it: delay, jitter, loss, reordering, duplicates,
//! a rate limit, and partitions in one or both directions.
//!
//! # Invariants
//! - P1. What happens to a datagram is decided in [`Path`], from its seed, its size and the time it is
//!   given; so the same seed and the same datagrams give the same decisions.
//! - P2. Each datagram draws the same number of random values whatever the settings are, so changing one
//!   setting does not move the luck of the others.

use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::background::Background;

/// What is wrong with one direction of a path. The default is a perfect one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impairment {
    /// Every datagram takes this long.
    pub delay: Duration,
    /// Up to this much longer, evenly spread; larger than the gap between datagrams it reorders them.
    pub jitter: Duration,
    /// Share of datagrams that vanish, 0.0 to 1.0.
    pub loss: f64,
    /// Share of datagrams that come twice.
    pub duplicate: f64,
    /// Share of datagrams held back for [`REORDER_DELAY`], so that later ones overtake them.
    pub reorder: f64,
    /// Bytes per second; what does not fit waits, and is lost once it would wait longer than
    /// [`QUEUE_DELAY_MAX`].
    pub rate: Option<u64>,
    /// Nothing passes.
    pub partitioned: bool,
}

/// How long a reordered datagram is held back.
pub const REORDER_DELAY: Duration = Duration::from_millis(5);
/// Longest wait in the queue of a rate limit.
pub const QUEUE_DELAY_MAX: Duration = Duration::from_millis(200);

/// The two directions of a path, seen from the side that sends the first datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the dialling side to the listening side.
    Forth,
    /// The answers.
    Back,
}

/// What became of datagrams so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Came in.
    pub taken: u64,
    /// Lost, partitioned or over the rate.
    pub lost: u64,
    /// Sent on, duplicates included.
    pub passed: u64,
}

/// One direction: decides what happens to each datagram. Pure.
pub struct Path {
    dice: fastrand::Rng,
    /// When the rate limit has sent all it took.
    free_at: Duration,
}

impl Path {
    /// A path whose luck is the seed.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: fastrand::Rng::with_seed(seed),
            free_at: Duration::ZERO,
        }
    }

    /// When to send the copies of a datagram that came in at `now` (time since some start); none if it
    /// is lost.
    pub fn decide(&mut self, now: Duration, bytes: usize, wrong: &Impairment) -> Vec<Duration> {
        let [lost, doubled, reordered, late] = std::array::from_fn(|_| self.dice.f64());
        if wrong.partitioned || lost < wrong.loss {
            return Vec::new();
        }
        let mut at = now;
        if let Some(rate) = wrong.rate {
            let begins = self.free_at.max(now);
            if begins.saturating_sub(now) > QUEUE_DELAY_MAX {
                return Vec::new();
            }
            self.free_at = begins + Duration::from_secs_f64(bytes as f64 / rate as f64);
            at = self.free_at;
        }
        at += wrong.delay + wrong.jitter.mul_f64(late);
        if reordered < wrong.reorder {
            at += REORDER_DELAY;
        }
        let copies = if doubled < wrong.duplicate { 2 } else { 1 };
        vec![at; copies]
    }
}

/// A running proxy in front of one UDP address. Ends when dropped.
pub struct Impairer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _thread: Background,
}

#[derive(Default)]
struct Shared {
    forth: (Impairment, Counts),
    back: (Impairment, Counts),
}

impl Shared {
    fn side(&mut self, direction: Direction) -> &mut (Impairment, Counts) {
        match direction {
            Direction::Forth => &mut self.forth,
            Direction::Back => &mut self.back,
        }
    }
}

impl Impairer {
    /// Starts a proxy for `target` on a free loopback port.
    pub fn start(target: SocketAddr, seed: u64) -> Self {
        let socket = bind_wide();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let state = shared.clone();
        let thread = Background::start("impairer", move || serve(socket, target, seed, state));
        Self {
            address,
            shared,
            _thread: thread,
        }
    }

    /// Where to send to instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes one direction.
    pub fn set(&self, direction: Direction, wrong: Impairment) {
        self.shared.lock().unwrap().side(direction).0 = wrong;
    }

    /// Changes both directions.
    pub fn set_both(&self, wrong: Impairment) {
        self.set(Direction::Forth, wrong);
        self.set(Direction::Back, wrong);
    }

    /// Cuts the path or mends it, keeping what else is wrong with it.
    pub fn partition(&self, direction: Direction, partitioned: bool) {
        self.shared.lock().unwrap().side(direction).0.partitioned = partitioned;
    }

    /// Cuts or mends both directions.
    pub fn partition_both(&self, partitioned: bool) {
        self.partition(Direction::Forth, partitioned);
        self.partition(Direction::Back, partitioned);
    }

    /// Counts of one direction.
    pub fn counts(&self, direction: Direction) -> Counts {
        self.shared.lock().unwrap().side(direction).1
    }
}

/// A datagram on its way.
struct Flight {
    at: Duration,
    order: u64,
    bytes: Vec<u8>,
    by: Arc<std::net::UdpSocket>,
    to: SocketAddr,
}

async fn serve(socket: std::net::UdpSocket, target: SocketAddr, seed: u64, shared: Arc<Mutex<Shared>>) {
    let start = Instant::now();
    // Sending is on the plain sockets: it must not wait, and Tokio's would first want to be polled.
    let front_sender = Arc::new(socket.try_clone().unwrap());
    let front = UdpSocket::from_std(socket).unwrap();
    let mut proxy = Proxy {
        start,
        shared,
        paths: [Path::new(seed), Path::new(seed ^ 0x5bd1_e995)],
        flights: BinaryHeap::new(),
        order: 0,
    };
    // One upstream socket per source address, as a network address translator has.
    let mut clients: HashMap<SocketAddr, Arc<std::net::UdpSocket>> = HashMap::new();
    let (answers, mut answered) = mpsc::channel::<(SocketAddr, Vec<u8>)>(4096);
    let mut buffer = vec![0; 65_536];
    loop {
        let next = proxy.flights.peek().map(|flight| start + flight.at);
        tokio::select! {
            received = front.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let upstream = clients.entry(from).or_insert_with(|| {
                    let upstream = bind_wide();
                    let reader = UdpSocket::from_std(upstream.try_clone().unwrap()).unwrap();
                    tokio::spawn(read_answers(reader, from, answers.clone()));
                    Arc::new(upstream)
                });
                proxy.take(Direction::Forth, &buffer[..length], upstream, target);
            }
            Some((client, bytes)) = answered.recv() => {
                proxy.take(Direction::Back, &bytes, &front_sender, client);
            }
            () = async { tokio::time::sleep_until(next.unwrap_or(start)).await }, if next.is_some() => {}
        }
        proxy.send_due();
    }
}

async fn read_answers(upstream: UdpSocket, client: SocketAddr, answers: mpsc::Sender<(SocketAddr, Vec<u8>)>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error here is the ICMP message of a target that is down; it may come back.
        let Ok((length, _)) = upstream.recv_from(&mut buffer).await else {
            continue;
        };
        if answers.send((client, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

struct Proxy {
    start: Instant,
    shared: Arc<Mutex<Shared>>,
    paths: [Path; 2],
    flights: BinaryHeap<Flight>,
    order: u64,
}

impl Proxy {
    fn take(&mut self, direction: Direction, bytes: &[u8], by: &Arc<std::net::UdpSocket>, to: SocketAddr) {
        let now = self.start.elapsed();
        let path = match direction {
            Direction::Forth => &mut self.paths[0],
            Direction::Back => &mut self.paths[1],
        };
        let times = {
            let mut shared = self.shared.lock().unwrap();
            let (wrong, counts) = shared.side(direction);
            let times = path.decide(now, bytes.len(), wrong);
            counts.taken += 1;
            counts.passed += times.len() as u64;
            counts.lost += u64::from(times.is_empty());
            times
        };
        for at in times {
            self.order += 1;
            let flight = Flight {
                at,
                order: self.order,
                bytes: bytes.to_owned(),
                by: by.clone(),
                to,
            };
            self.flights.push(flight);
        }
    }

    fn send_due(&mut self) {
        let now = self.start.elapsed();
        while self.flights.peek().is_some_and(|flight| flight.at <= now) {
            let Some(flight) = self.flights.pop() else { return };
            // A full socket buffer loses the datagram, as a router would.
            let _ = flight.by.send_to(&flight.bytes, flight.to);
        }
    }
}

/// The earliest flight is the greatest, because `BinaryHeap` gives the greatest first.
impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Flight {}

/// A loopback socket whose buffers are large enough that losses are decided here, not by the kernel.
fn bind_wide() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let reference = socket2::SockRef::from(&socket);
    let _ = reference.set_recv_buffer_size(4 << 20);
    let _ = reference.set_send_buffer_size(4 << 20);
    socket.set_nonblocking(true).unwrap();
    socket
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn run(seed: u64, wrong: &Impairment, datagrams: u32) -> Vec<Vec<Duration>> {
        let mut path = Path::new(seed);
        (0..datagrams).map(|n| path.decide(MS * n, 1000, wrong)).collect()
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let wrong = Impairment {
            delay: MS * 20,
            jitter: MS * 3,
            loss: 0.05,
            duplicate: 0.02,
            reorder: 0.02,
            ..Impairment::default()
        };
        assert_eq!(run(7, &wrong, 10_000), run(7, &wrong, 10_000));
        assert_ne!(run(7, &wrong, 10_000), run(8, &wrong, 10_000));
    }

    #[test]
    fn one_setting_does_not_move_the_luck_of_another() {
        let lossy = Impairment {
            loss: 0.1,
            ..Impairment::default()
        };
        let both = Impairment {
            duplicate: 0.5,
            ..lossy
        };
        let lost = |decisions: Vec<Vec<Duration>>| decisions.iter().map(Vec::is_empty).collect::<Vec<_>>();
        assert_eq!(lost(run(3, &lossy, 5_000)), lost(run(3, &both, 5_000)));
    }

    #[test]
    fn shares_are_what_was_asked_for() {
        let wrong = Impairment {
            loss: 0.1,
            duplicate: 0.2,
            ..Impairment::default()
        };
        let decisions = run(1, &wrong, 20_000);
        let lost = decisions.iter().filter(|times| times.is_empty()).count();
        let doubled = decisions.iter().filter(|times| times.len() == 2).count();
        assert!((1_800..2_200).contains(&lost), "{lost} of 20000 lost at 10 %");
        assert!((3_300..3_900).contains(&doubled), "{doubled} of 18000 doubled at 20 %");
    }

    #[test]
    fn a_partition_loses_everything_and_a_perfect_path_nothing() {
        let cut = Impairment {
            partitioned: true,
            ..Impairment::default()
        };
        assert!(run(1, &cut, 100).iter().all(Vec::is_empty));
        let perfect = run(1, &Impairment::default(), 100);
        assert!(perfect.iter().zip(0..).all(|(times, n)| *times == [MS * n]));
    }

    #[test]
    fn a_rate_spreads_datagrams_and_loses_what_would_wait_too_long() {
        let slow = Impairment {
            rate: Some(100_000),
            ..Impairment::default()
        };
        let mut path = Path::new(1);
        let decisions: Vec<_> = (0..30).map(|_| path.decide(Duration::ZERO, 1000, &slow)).collect();
        // 1000 bytes at 100 kB/s take 10 ms each; 200 ms of queue take 21 of them.
        assert_eq!(decisions[0], [MS * 10]);
        assert_eq!(decisions[4], [MS * 50]);
        assert_eq!(decisions.iter().filter(|times| !times.is_empty()).count(), 21);
    }

    #[tokio::test]
    async fn datagrams_pass_both_ways_until_one_way_is_cut() {
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let impairer = Impairer::start(target.local_addr().unwrap(), 1);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 16];

        client.send_to(b"ping", impairer.address()).await.unwrap();
        let (length, from) = target.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"ping");
        target.send_to(b"pong", from).await.unwrap();
        let (length, _) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"pong");

        impairer.partition(Direction::Back, true);
        target.send_to(b"lost", from).await.unwrap();
        client.send_to(b"forth", impairer.address()).await.unwrap();
        let (length, _) = target.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"forth");
        super::super::wait_for("the answer to be lost", Duration::from_secs(5), async || {
            (impairer.counts(Direction::Back).lost == 1).then_some(())
        })
        .await;
        impairer.partition(Direction::Back, false);
        target.send_to(b"again", from).await.unwrap();
        let (length, _) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"again");
    }
}
