//! What counting one call costs (T1).

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use strait::model::{Name, Outcome};
use strait::telemetry::calls::{CallMetrics, Direction, Ended};

pub fn bench(criterion: &mut Criterion) {
    let metrics = CallMetrics::detached().unwrap();
    let unit = Name::new("a").unwrap();
    let ended = Ended {
        outcome: Outcome::Ok,
        reason: None,
        total: Duration::from_micros(120),
        queue: Duration::from_micros(8),
        wire: Duration::from_micros(60),
        service: Duration::from_micros(52),
        started: true,
    };
    criterion.bench_function("counting one call", |bencher| {
        bencher.iter(|| {
            let pair = metrics.pair(Direction::Outbound, &unit, &unit);
            pair.on_started();
            pair.on_ended(black_box(&ended));
        });
    });
}
