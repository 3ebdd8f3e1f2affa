//! Loading, layers, and the texts of mistakes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::*;

/// A folder of its own for each test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("strait-settings-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("pairs")).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, text).unwrap();
        file
    }

    fn source(&self, text: &str) -> Source {
        let file = Some(self.write("relay.toml", text));
        Source {
            file,
            ..Source::default()
        }
    }

    /// Problems without the folder's name.
    fn problems(&self, source: &Source) -> Vec<String> {
        let loaded = match source.load() {
            Ok(loaded) => loaded.check(source.base()).unwrap_err(),
            Err(problems) => problems,
        };
        let prefix = format!("{}/", self.0.display());
        loaded
            .0
            .iter()
            .map(|problem| problem.to_string().replace(&prefix, ""))
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const BASICS: &str = "[relay]\ngeo = \"cn-east\"\nunit = \"a\"\nname = \"a-1\"\n";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn the_documented_file_has_every_key_and_equals_the_defaults() {
    // O-C2. STRAIT_BLESS=1 writes the file.
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/relay.toml"));
    let text = reference().unwrap();
    if std::env::var_os("STRAIT_BLESS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap();
    for (line, (found, expected)) in found.lines().zip(text.lines()).enumerate() {
        let line = line + 1;
        assert_eq!(
            found, expected,
            "config/relay.toml:{line}: run with STRAIT_BLESS=1 and look at the change"
        );
    }
    assert_eq!(
        found.len(),
        text.len(),
        "config/relay.toml: run with STRAIT_BLESS=1 and look at the change"
    );
    let source = Source {
        file: Some(file),
        ..Source::default()
    };
    assert_eq!(
        source.load().map_err(|problems| problems.to_string()).unwrap().settings,
        Settings::default()
    );
}

#[test]
fn every_key_has_a_description() {
    fn check(node: schema::Node<'_>, path: &str) {
        for key in node.keys() {
            let schema::Child::Known(child) = node.child(key) else {
                unreachable!()
            };
            let path = path::join(path, key);
            assert!(
                child.description().is_some_and(|text| text.len() > 3),
                "{path} has no description"
            );
            check(child, &path);
        }
    }
    check(Schema::new().root(), "");
}

#[test]
fn later_sources_win_and_each_value_knows_where_it_came_from() {
    // O-C1, O-C2
    let folder = Folder::new("layers");
    let mut source = folder.source(&format!(
        "{BASICS}shards = 1\ndrain_timeout = \"1s\"\n[log]\nlevel = \"debug\"\n"
    ));
    folder.write(
        "pairs/cn-east--sg.toml",
        "[relay]\nshards = 2\ndrain_timeout = \"2s\"\n[units.b]\ngeo = \"sg\"\n",
    );
    folder.write("pairs/sg--us.toml", "[relay]\nshards = 99\n");
    source.environment = pairs(&[
        ("STRAIT__RELAY__SHARDS", "3"),
        ("STRAIT__LOG__LEVEL", "warn"),
        ("STRAIT_CONFIG", "x"),
    ]);
    source.flags = pairs(&[
        ("log.level", "error"),
        ("services.\"im.Echo\".endpoints", "unix:/a,unix:/b"),
    ]);

    let loaded = source.load().map_err(|problems| problems.to_string()).unwrap();
    assert_eq!(loaded.settings.relay.shards, 3);
    assert_eq!(loaded.settings.relay.drain_timeout.as_secs(), 2);
    assert_eq!(loaded.settings.log.level, "error");
    assert_eq!(loaded.settings.services["im.Echo"].endpoints.len(), 2);
    assert_eq!(loaded.settings.units["b"].geo.as_str(), "sg");

    let shown = show(&loaded);
    let check = |key: &str, value: &str, from: &str| {
        let line = shown
            .iter()
            .find(|shown| shown.key == key)
            .unwrap_or_else(|| panic!("{key}"));
        let prefix = format!("{}/", folder.0.display());
        assert_eq!(
            (line.value.as_str(), line.from.replace(&prefix, "").as_str()),
            (value, from),
            "{key}"
        );
    };
    check("relay.unit", "\"a\"", "relay.toml:3");
    check("relay.shards", "3", "environment variable STRAIT__RELAY__SHARDS");
    check("relay.drain_timeout", "\"2s\"", "pairs/cn-east--sg.toml:3");
    check("log.level", "\"error\"", "flag --set log.level");
    check("log.access", "0.0", "default");
}

#[test]
fn mistakes_name_key_file_line_and_what_was_meant_and_come_all_at_once() {
    // O-C1
    let folder = Folder::new("mistakes");
    let mut source = folder.source(
        "[relay]\nunti = \"a\"\nname = \"a/1\"\nshards = \"two\"\n\n[lgo]\nlevel = 1\n\n[log]\nlevel = 1\n\n\
         [services.\"im.Echo\"]\ntimeout = 30\n\n[admin]\nlisten = \"here\"\n\n[[routing.rules]]\ndimension = \"uid\"\n",
    );
    source.environment = pairs(&[("STRAIT__RELAY__GEOO", "x")]);
    source.flags = pairs(&[("calls.timeout", "soon")]);
    let mut found = folder.problems(&source);
    found.sort();
    let expected = [
        "environment variable STRAIT__RELAY__GEOO: relay.geoo: unknown key; did you mean \"geo\"?",
        "flag --set calls.timeout: calls.timeout: expected a time with its unit, in quotes, such as \"30s\", \"500ms\" or \"5m\", found the text \"soon\"",
        "relay.toml:10: log.level: expected a text in quotes, such as \"text\", found the number 1",
        "relay.toml:13: services.\"im.Echo\".timeout: expected a time with its unit, in quotes, such as \"30s\", \"500ms\" or \"5m\", found the number 30",
        "relay.toml:16: admin.listen: invalid socket address syntax",
        "relay.toml:18: routing.rules[0]: missing field `unit`",
        "relay.toml:2: relay.unti: unknown key; did you mean \"unit\"?",
        "relay.toml:3: relay.name: a name may hold A-Z a-z 0-9 . _ - only, not '/'",
        "relay.toml:4: relay.shards: expected a whole number from 0 on, without quotes, such as 10, found the text \"two\"",
        "relay.toml:6: lgo: unknown key; did you mean \"log\"?",
    ];
    assert_eq!(found, expected);
}

// O-C1, C2: a mistake in one table does not hide those in another, and leads to none that is not there.
#[test]
fn a_value_of_the_wrong_type_hides_no_other_mistake() {
    let folder = Folder::new("hidden");
    let rest = "[routing]\ndimensions = [\"uid\"]\n";
    let with = |text: &str| folder.source(&format!("{BASICS}{rest}{text}"));
    let found = folder.problems(&with(
        "[access]\nspread = 15\nusers_max = 0\n[log]\naccess = 2.0\n[[routes.dimension]]\nname = \"uid\"\n",
    ));
    let has = |part: &str| found.iter().any(|problem| problem.contains(part));
    assert!(
        has("access.spread: expected a time with its unit") && has("found the number 15"),
        "{found:#?}"
    );
    assert!(has("log.access: expected a share from 0.0 to 1.0"), "{found:#?}");
    assert!(
        has("routes.dimension[0]: says how keys are placed and moved"),
        "{found:#?}"
    );
    // A table that others refer to: what may only seem wrong because of it is left out.
    let found = folder.problems(&with(
        "[routes]\nstore = 3\n[[routes.dimension]]\nname = \"uid\"\n[log]\naccess = 2.0\n",
    ));
    let [store, access] = &found[..] else {
        panic!("{found:#?}")
    };
    let text = "routes.store: expected one of [\"none\", \"embedded\", \"etcd\"], found the number 3";
    assert!(store.contains(text), "{store}");
    assert!(access.contains("log.access"), "{access}");
    // Entries of maps: all that is wrong in them, and in others; but not that a rule names a unit that could not be read.
    let keys = |text: &str| {
        let found = folder.problems(&with(text));
        let key = |problem: &String| problem.split(": ").nth(1).unwrap_or_default().to_owned();
        found.iter().map(key).collect::<BTreeSet<_>>()
    };
    let rule = "[[routing.rules]]\ndimension = \"uid\"\nunit = \"b\"\ndefault = true\n";
    assert_eq!(
        keys(&format!(
            "[units.b]\ngeo = 1\ndial = 2\n[units.c]\ngeo = \"sg\"\n{rule}"
        )),
        ["units.b.geo", "units.b.dial", "units.c.geo"].map(str::to_owned).into()
    );
    assert_eq!(
        keys("[topics.t]\nttl = 5\nordered = 6\n[topics.s]\nvisibility_timeout = \"0s\"\n"),
        ["topics.t.ttl", "topics.t.ordered", "topics.s.visibility_timeout"]
            .map(str::to_owned)
            .into()
    );
}

// Whatever value is of the wrong type, all the rest is right, and nothing else is complained about.
#[test]
fn a_value_of_the_wrong_type_makes_nothing_else_seem_wrong() {
    let folder = Folder::new("alone");
    let more = "[routes]\nstore = \"embedded\"\nauthority = \"a/a-1\"\n\
                [[routes.dimension]]\nname = \"uid\"\nplacement = \"claim\"\nnew_keys = [{ to = [{ unit = \"c\", weight = 1 }] }]\n\
                [units.c]\ngeo = \"cn-east\"\n[access]\ndimension = \"uid\"\n\
                [topics.t]\nrule = \"units\"\nunits = [\"b\"]\n[topics.t.groups.g.push]\nservice = \"im.Echo\"\n\
                [replay.units.b.limits]\nmessages_per_second = 5\n[retry.units]\nb = true\n\
                [calls.route.\"im.Echo\"]\ndimensions = [\"uid\"]\non_failure = \"park\"\n";
    let text = format!("{BASICS}{WHOLE}{more}");
    let right = folder.source(&text);
    let loaded = right.load().map_err(|problems| problems.to_string()).unwrap();
    loaded
        .check(right.base())
        .map_err(|problems| problems.to_string())
        .unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut tried = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        let wrong = format!("{key} = [[1]]");
        let mut changed = lines.clone();
        changed[index] = &wrong;
        let found = folder.problems(&folder.source(&changed.join("\n")));
        let place = format!("relay.toml:{}: ", index + 1);
        assert!(
            found.iter().all(|problem| problem.starts_with(&place)),
            "line {}: {line}: {found:#?}",
            index + 1
        );
        tried += usize::from(!found.is_empty());
    }
    assert!(tried > 25, "{tried}");
}

#[test]
fn a_file_that_is_not_toml_is_named_with_the_line() {
    let folder = Folder::new("syntax");
    let found = folder.problems(&folder.source("[relay]\ngeo = \"a\"\nunit = \n"));
    assert!(found[0].starts_with("relay.toml:3: not TOML: "), "{found:?}");
    let missing = Source {
        file: Some(folder.0.join("none.toml")),
        ..Source::default()
    };
    assert!(folder.problems(&missing)[0].starts_with("none.toml: cannot be read: "));
    folder.write("pairs/odd.toml", "");
    assert_eq!(
        folder.problems(&folder.source(BASICS)),
        ["pairs/odd.toml: the name of a pair file is <geo>--<geo>.toml"]
    );
}

#[test]
fn values_that_do_not_fit_together_are_named_with_file_and_line() {
    let folder = Folder::new("cross");
    let source = folder.source(&format!(
        "{BASICS}[admin]\nlisten = \"0.0.0.0:7402\"\n[ingress.grpc]\nlisten = [\"127.0.0.1:1\", \"10.0.0.1:1\"]\n[units.a]\ngeo = \"cn-east\"\n[units.b]\ngeo = \"sg\"\n\
         [[units.b.relays]]\nname = \"b-1\"\naddresses = [\"b:0\"]\n[calls]\nmissing_key = \"unit:x\"\n[log]\naccess = 2.0\n\
         [peer]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n[peer.trust]\ncn-east = \"ca.pem\"\n\
         [routing]\ndimensions = [\"uid\"]\n[[routing.rules]]\ndimension = \"uid\"\nprefix = \"1\"\nunit = \"c\"\n",
    ));
    let found = folder.problems(&source);
    let expected = [
        "relay.toml:8: ingress.grpc.listen: 10.0.0.1:1 is not a loopback address",
        "relay.toml:9: units.a: is this relay's own unit",
        "relay.toml:12: units.b.geo: no CA vouches for Geo sg; add the file of its CA certificates as peer.trust.sg",
        "relay.toml:15: units.b.relays[0].addresses: expected host:port",
        "relay.toml:17: calls.missing_key: unit x is neither in [units] nor this relay's own",
        "relay.toml:19: log.access: expected a share from 0.0 to 1.0",
        "relay.toml:6: admin.listen: 0.0.0.0:7402 can be reached from other machines",
        "relay.toml:30: routing.rules[0].unit: unit \"c\" is neither in [units] nor this relay's own",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "expected {expected:?}, found {found:?}");
    }
    let nothing = folder.problems(&folder.source(""));
    assert_eq!(
        nothing
            .iter()
            .filter(|text| text.contains("required; a relay needs"))
            .count(),
        3,
        "{nothing:?}"
    );
}

#[test]
fn a_whole_configuration_is_read_and_its_paths_start_at_its_folder() {
    let folder = Folder::new("whole");
    let source = folder.source(&format!("{BASICS}{WHOLE}"));
    let loaded = source.load().map_err(|problems| problems.to_string()).unwrap();
    let checked = loaded
        .check(source.base())
        .map_err(|problems| problems.to_string())
        .unwrap();
    assert_eq!(checked.data_dir, folder.0.join("data"));
    assert_eq!(
        checked.settings.peer.certificate.as_deref(),
        Some(folder.0.join("certs/a-1.pem").as_path())
    );
    assert!(checked.routes.is_known(&crate::model::Name::new("b").unwrap()));
    assert_eq!(checked.admin.map(|address| address.port()), Some(7402));
}

const WHOLE: &str = r#"
[ingress.grpc]
listen = ["127.0.0.1:7400"]
socket = "grpc.sock"
[ingress.framed]
listen = ["127.0.0.1:7401"]
socket = "strait.sock"
[admin]
listen = "127.0.0.1:7402"
[peer]
listen = "0.0.0.0:7443"
certificate = "certs/a-1.pem"
key = "certs/a-1.key"
trust_domain = "strait.local"
[peer.trust]
cn-east = "certs/cn-east-ca.pem"
sg = "certs/sg-ca.pem"
[units.b]
geo = "sg"
dial = true
[[units.b.relays]]
name = "b-1"
addresses = ["127.0.0.1:8443"]
[services."im.Echo"]
endpoints = ["http://127.0.0.1:9000", "unix:/run/echo.sock"]
timeout = "30s"
missing_key = "reject"
[routing]
dimensions = ["im.conversation", "uid"]
hops_max = 4
[[routing.rules]]
dimension = "im.conversation"
prefix = "cid:1"
unit = "b"
[[routing.rules]]
dimension = "uid"
hash = [0, 50]
unit = "b"
"#;

// R-3.2: a store has the units of its Geo; and what is wrong with [routes] is said with what to do.
#[test]
fn routes_belong_to_one_geo_and_their_mistakes_are_named() {
    let folder = Folder::new("routes");
    let units = "[units.b]\ngeo = \"cn-east\"\n[units.far]\ngeo = \"sg\"\n";
    let trust = "[peer]\ncertificate = \"c\"\nkey = \"k\"\n[peer.trust]\ncn-east = \"x\"\nsg = \"y\"\n";
    let routing =
        "[routing]\ndimensions = [\"uid\"]\n[[routing.rules]]\ndimension = \"uid\"\nunit = \"far\"\ndefault = true\n";
    let with = |routes: &str| folder.source(&format!("{BASICS}{units}{trust}{routing}{routes}"));
    let at = "[routes]\nstore = \"embedded\"\n";

    let right = with(&format!("{at}authority = \"a/a-1\"\n"));
    let checked = right.load().unwrap().check(right.base()).unwrap();
    let book = checked.settings.route_book();
    let units: Vec<_> = book.units.iter().map(crate::model::Name::as_str).collect();
    assert_eq!(units, ["a", "b"], "units of other Geos have their routes elsewhere");
    assert_eq!(book.rules.len(), 1);
    assert!(checked.settings.is_route_authority());

    for (routes, text) in [
        (at.to_owned(), "routes.authority: required with store"),
        (
            format!("{at}authority = \"b/b-1\"\n"),
            "routes.authority_addresses: required",
        ),
        (
            format!("{at}authority = \"far/f-1\"\nauthority_addresses = [\"h:1\"]\n"),
            "routes belong to one Geo",
        ),
        (
            "[routes]\nstore = \"etcd\"\n".to_owned(),
            "routes.etcd.endpoints: required",
        ),
        (
            "[[routes.dimension]]\nname = \"cid\"\n".to_owned(),
            "is not in routing.dimensions",
        ),
        (
            "[[routes.dimension]]\nname = \"uid\"\nnew_keys = [{ percent = 5 }]\n".to_owned(),
            "set placement = \"claim\"",
        ),
        (
            "[[routes.dimension]]\nname = \"uid\"\nclaim_fallback = \"deterministic\"\n".to_owned(),
            "says what becomes of keys that cannot be claimed; set placement = \"claim\"",
        ),
        (
            "[[routes.dimension]]\nname = \"uid\"\nowner_lease = \"3601s\"\n".to_owned(),
            "routes.dimension[0].owner_lease: stores remember silent relays for a lease of an hour at most",
        ),
        (
            "[routes]\nin_flight_max = \"61m\"\n".to_owned(),
            "routes.in_flight_max: must be longer than zero, and an hour at most",
        ),
        (
            format!("{at}in_flight_max = \"161s\"\n"),
            "routes.in_flight_max: may be 8 times the shortest owner_lease at most, 2m 40s, or a clock",
        ),
        (
            "[routes]\nclaim_fallback_after = \"50ms\"\n".to_owned(),
            "must be from 100ms to 1m",
        ),
        (
            "[[routes.dimension]]\nname = \"uid\"\nhooks = { service = \"im.Owners\", timeout = \"2m\" }\n".to_owned(),
            "must be longer than zero, and a minute at most",
        ),
    ] {
        let problems = folder.problems(&with(&routes));
        assert!(
            problems.iter().any(|problem| problem.contains(text)),
            "{routes}: {problems:?}"
        );
    }
}

// R-3.5: what would place new keys nowhere, or nowhere that keys go, is refused.
#[test]
fn where_new_keys_go_is_checked() {
    let folder = Folder::new("new-keys");
    let units = "[units.b]\ngeo = \"cn-east\"\n[units.far]\ngeo = \"sg\"\n";
    let trust = "[peer]\ncertificate = \"c\"\nkey = \"k\"\n[peer.trust]\ncn-east = \"x\"\nsg = \"y\"\n";
    let routing = "[routing]\ndimensions = [\"uid\"]\n";
    let with = |routes: &str| folder.source(&format!("{BASICS}{units}{trust}{routing}{routes}"));
    let at = "[routes]\nstore = \"embedded\"\n";
    let new_keys = |rule: &str| {
        let claimed = "[[routes.dimension]]\nname = \"uid\"\nplacement = \"claim\"\n";
        format!("{at}authority = \"a/a-1\"\n{claimed}new_keys = [{{ {rule} }}]\n")
    };
    for (routes, text) in [
        (
            "[[routes.dimension]]\nname = \"uid\"\n".to_owned(),
            "relay.toml:17: routes.dimension[0]: says how keys are placed and moved that are kept in a route store, and there is none",
        ),
        (
            "[routes]\nprovisional_max = 0\n".to_owned(),
            "routes.provisional_max: no key could be placed while the store is away; use 1 or more",
        ),
        (
            new_keys("to = [{ unit = \"nope\", weight = 1 }]"),
            "relay.toml:23: routes.dimension[0].new_keys[0].to[0].unit: unit nope is neither in [units] nor this relay's own",
        ),
        (
            new_keys("to = [{ unit = \"far\", weight = 1 }]"),
            "new_keys[0].to[0].unit: unit far is of Geo sg; new keys stay in this Geo",
        ),
        (
            new_keys("to = [{ unit = \"a\", weight = 1 }, { unit = \"b\", weight = 0 }]"),
            "new_keys[0].to[1].weight: the unit would get no keys; use 1 or more",
        ),
        (new_keys("percent = 101"), "new_keys[0].percent: expected 1 to 100"),
        (
            new_keys("follow = \"cid\""),
            "new_keys[0].follow: dimension cid is not in routing.dimensions",
        ),
    ] {
        let problems = folder.problems(&with(&routes));
        assert!(
            problems.iter().any(|problem| problem.contains(text)),
            "{routes}: {problems:?}"
        );
    }
}

#[test]
fn access_points_and_users_fit_the_rest_and_their_mistakes_are_named() {
    let folder = Folder::new("access");
    let rest = "[peer]\ncertificate = \"c\"\nkey = \"k\"\n[peer.trust]\ncn-east = \"x\"\nsg = \"y\"\n\
                [routing]\ndimensions = [\"uid\"]\n[units.far]\ngeo = \"sg\"\n";
    let with = |own: &str, b: &str, access: &str| {
        let text =
            format!("{BASICS}access = {own}\n[units.b]\ngeo = \"cn-east\"\naccess = {b}\n{rest}[access]\n{access}\n");
        folder.source(&text)
    };
    let right = with("[\"wss://a\"]", "[\"wss://b\", \"wss://b:444\"]", "dimension = \"uid\"");
    let checked = right.load().unwrap().check(right.base()).unwrap();
    assert_eq!(checked.warnings, Problems::default(), "units of other Geos need none");
    let directory = checked.settings.access_directory();
    let points: Vec<_> = directory.units.values().map(|(_, points)| points.len()).collect();
    assert_eq!(points, [1, 2, 0], "of a, b and far");
    let odd = with("[]", "[\"wss://b\"]", "dimension = \"uid\"");
    let warnings = odd.load().unwrap().check(odd.base()).unwrap().warnings.to_string();
    assert!(
        warnings.contains("relay.access: clients of its users are sent to other units"),
        "{warnings}"
    );

    let long = format!("[\"{}\"]", "x".repeat(256));
    let many = format!(
        "[{}]",
        (0..9).map(|at| format!("\"w{at}\"")).collect::<Vec<_>>().join(", ")
    );
    for (own, b, access, text) in [
        (
            "[]",
            "[]",
            "dimension = \"room\"",
            "access.dimension: room is not in routing.dimensions",
        ),
        (
            "[]",
            "[]",
            "spread = \"11m\"",
            "access.spread: clients would be told to wait too long; 10m at most",
        ),
        (
            "[]",
            "[]",
            "points_max = 0",
            "access.points_max: out of range; use 1 to 64",
        ),
        (
            "[]",
            "[]",
            "users_max = 0",
            "access.users_max: nobody could follow a user",
        ),
        ("[\"\"]", "[]", "", "relay.access[0]: expected 1 to 255 characters"),
        ("[\"a b\"]", "[]", "", "relay.access[0]: expected 1 to 255 characters"),
        ("[]", &long, "", "units.b.access[0]: expected 1 to 255 characters"),
        (
            "[]",
            &many,
            "",
            "units.b.access: 9 access points are too many; at most 8",
        ),
        ("[]", "[\"w\", \"w\"]", "", "units.b.access[1]: is listed twice"),
    ] {
        let problems = folder.problems(&with(own, b, access));
        assert!(
            problems.iter().any(|problem| problem.contains(text)),
            "{text}: {problems:?}"
        );
    }
}

// S1: a client that is told an address must not come to another unit.
#[test]
fn an_access_point_belongs_to_one_unit() {
    let folder = Folder::new("access-twice");
    let rest =
        "[peer]\ncertificate = \"c\"\nkey = \"k\"\n[peer.trust]\ncn-east = \"x\"\n[routing]\ndimensions = [\"uid\"]\n";
    let units = "access = [\"v\", \"w\"]\n[units.b]\ngeo = \"cn-east\"\naccess = [\"u\", \"w\"]\n";
    let problems = folder.problems(&folder.source(&format!("{BASICS}{units}{rest}")));
    let text = "relay.toml:8: units.b.access[1]: w is relay.access[1] as well; clients of the two units could not be told apart";
    let [only] = &problems[..] else { panic!("{problems:?}") };
    assert!(only.starts_with(text), "{only}");
}
