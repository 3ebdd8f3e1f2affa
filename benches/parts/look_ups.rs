//! Which unit owns a key by the rules, and the mailbox events wait in.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use strait::mailbox::Mailbox;
use strait::model::{ANY_KEY, Key, Name, RouteHints};
use strait::routing::{RouteTable, Rule, Settings};

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for rules in [1, 100, 1000] {
        let table = table(rules);
        let local = Name::new("a").unwrap();
        let last = format!("cid:{:04}:77", rules - 1);
        for (what, key) in [("prefix", last.as_str()), ("hash", "other:4711")] {
            let hints = hints(key);
            group.bench_function(format!("{what}, {rules} units"), |bencher| {
                bencher.iter(|| {
                    let decision = table.resolve(black_box(&hints), &ANY_KEY, &local, &());
                    decision.map(|decision| decision.epoch).unwrap()
                });
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("mailbox");
    group.throughput(Throughput::Elements(64));
    let mailbox = Mailbox::new();
    group.bench_function("push and pop 64", |bencher| {
        bencher.iter(|| {
            for event in 0..64_u64 {
                mailbox.push(black_box(event));
            }
            while let Some(event) = mailbox.pop() {
                black_box(event);
            }
        });
    });
    group.finish();
}

/// One prefix for each unit; what matches none is shared out by hash.
fn table(units: usize) -> RouteTable {
    let dimension = Name::new("im.conversation").unwrap();
    let names: Vec<Name> = (0..units).map(|n| Name::new(&format!("unit-{n}")).unwrap()).collect();
    let rule = |unit: &Name| Rule {
        dimension: dimension.clone(),
        unit: unit.clone(),
        keys: Vec::new(),
        prefix: None,
        range: None,
        hash: None,
        default: false,
    };
    let mut rules: Vec<Rule> = names
        .iter()
        .enumerate()
        .map(|(n, unit)| Rule {
            prefix: Some(format!("cid:{n:04}:")),
            ..rule(unit)
        })
        .collect();
    let half = |hash, unit: Option<&Name>| Rule {
        hash: Some(hash),
        ..rule(unit.unwrap())
    };
    rules.push(half([0.0, 50.0], names.first()));
    rules.push(half([50.0, 100.0], names.last()));
    let settings = Settings {
        dimensions: vec![dimension.clone()],
        rules,
        ..Settings::default()
    };
    RouteTable::build(&settings, &Name::new("a").unwrap(), &names).unwrap()
}

fn hints(key: &str) -> RouteHints {
    RouteHints {
        keys: vec![Key {
            dimension: Bytes::from_static(b"im.conversation"),
            key: Bytes::copy_from_slice(key.as_bytes()),
        }],
        ..RouteHints::default()
    }
}
