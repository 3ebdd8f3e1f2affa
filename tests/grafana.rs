//! Dashboards ask for series that exist, and names of series are a contract (O-M1, O-M2).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// Words of a text that start with one of the prefixes of our series.
fn names_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("strait_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// Names of all series: those that the sources register, and those of the process.
fn series() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files(&root("src"), ".rs") {
        let text = fs::read_to_string(file).unwrap();
        // A series is named by a string of its own.
        for literal in text.split('"').filter(|literal| literal.starts_with("strait_")) {
            if literal
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            {
                names.insert(literal.to_owned());
            }
        }
    }
    let registry = strait::telemetry::Registry::new().unwrap();
    let families = registry.series().gather();
    names.extend(families.iter().map(|family| family.name().to_owned()));
    names
}

fn dashboards() -> Vec<(PathBuf, Value)> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, serde_json::from_str(&text).unwrap())
    };
    files(&root("grafana/dashboards"), ".json")
        .into_iter()
        .map(read)
        .collect()
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().unwrap().iter();
    all.filter(|panel| panel["type"] != "row").collect()
}

fn expressions(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().unwrap().iter();
    targets.map(|target| target["expr"].as_str().unwrap()).collect()
}

#[test]
fn names_of_series_change_only_on_purpose() {
    // O-M1. STRAIT_BLESS=1 writes the file.
    let file = root("tests/golden/metrics.txt");
    let found = series().into_iter().collect::<Vec<_>>().join("\n") + "\n";
    if std::env::var_os("STRAIT_BLESS").is_some() {
        fs::write(&file, &found).unwrap();
    }
    let known = fs::read_to_string(&file).unwrap();
    assert_eq!(
        known, found,
        "dashboards and alerts of users break; if that is meant, run with STRAIT_BLESS=1"
    );
}

#[test]
fn every_series_a_dashboard_asks_for_exists() {
    // O-M2
    let golden = fs::read_to_string(root("tests/golden/metrics.txt")).unwrap();
    let known: BTreeSet<_> = golden.lines().collect();
    let mut texts = dashboards()
        .iter()
        .map(|(path, json)| (path.clone(), json.to_string()))
        .collect::<Vec<_>>();
    for ending in [".md", ".yaml", ".yml"] {
        let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
        texts.extend(files(&root("grafana"), ending).into_iter().map(read));
    }
    let exists = |name: &str| {
        let histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        known.contains(name) || histogram.is_some_and(|name| known.contains(name))
    };
    for (path, text) in texts {
        for name in names_in(&text) {
            assert!(exists(&name), "{} asks for {name}, which no relay has", path.display());
        }
    }
}

#[test]
fn every_panel_can_be_read_and_follows_the_variables() {
    // O-M2: the rules of the dashboard linter.
    for (path, dashboard) in dashboards() {
        let path = path.display();
        assert_eq!(dashboard["editable"], false, "{path}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        for name in ["datasource", "job", "instance", "src_unit", "dst_unit"] {
            assert!(
                variables.iter().any(|variable| variable["name"] == name),
                "{path}: variable {name} is missing"
            );
        }
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(
                !title.is_empty() && panel["description"].as_str().unwrap().len() > 10,
                "{path}: {title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{path}: {title}");
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{path}: {title} has no unit"
            );
            for expression in expressions(panel) {
                let selected = expression.contains("job=~\"$job\", instance=~\"$instance\"");
                assert!(
                    selected,
                    "{path}: {title} does not follow job and instance: {expression}"
                );
                for range in expression.split('[').skip(1) {
                    assert!(range.starts_with("$__rate_interval]"), "{path}: {title}: {expression}");
                }
                let (open, close) = (expression.matches('(').count(), expression.matches(')').count());
                assert_eq!(open, close, "{path}: {title}: {expression}");
            }
        }
    }
}

#[test]
fn every_panel_has_its_question_in_the_readme() {
    let readme = fs::read_to_string(root("grafana/README.md")).unwrap();
    for (path, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let row = format!("| {} |", panel["title"].as_str().unwrap());
            assert!(
                readme.contains(&row),
                "{}: {row} is missing in grafana/README.md",
                path.display()
            );
        }
    }
}

/// Names of alerts and what they link to.
fn alerts() -> Vec<(String, String)> {
    let text = fs::read_to_string(root("grafana/alerts.yml")).unwrap();
    let value = |line: &str, key: &str| line.trim().strip_prefix(key).map(|value| value.trim().to_owned());
    let names = text.lines().filter_map(|line| value(line, "- alert:"));
    let links = text.lines().filter_map(|line| value(line, "runbook:"));
    let alerts: Vec<_> = names.zip(links).collect();
    assert_eq!(
        alerts.len(),
        text.matches("- alert:").count(),
        "each alert links to the runbook"
    );
    assert!(alerts.len() > 10);
    alerts
}

#[test]
fn every_alert_says_what_to_do_and_is_tested() {
    // O-M2
    let runbook = fs::read_to_string(root("grafana/runbook.md")).unwrap();
    let tests = fs::read_to_string(root("grafana/alerts_test.yml")).unwrap();
    let entries: Vec<_> = runbook.split("\n## ").skip(1).collect();
    for (alert, link) in alerts() {
        assert_eq!(link, format!("runbook.md#{}", alert.to_lowercase()), "{alert}");
        let entry = entries
            .iter()
            .find(|entry| entry.lines().next() == Some(alert.as_str()));
        let entry = entry.unwrap_or_else(|| panic!("{alert} has no entry in grafana/runbook.md"));
        for part in ["**Meaning.**", "**Likely causes.**", "**What to do.**"] {
            assert!(entry.contains(part), "{alert}: {part} is missing");
        }
        // Once where it must be silent, once where it must fire: the summary is expected.
        let tested = tests.matches(&format!("alertname: {alert}")).count();
        assert!(tested >= 2 && tests.contains(&link), "{alert}: {tested} tests");
    }
    let known: BTreeSet<_> = alerts().into_iter().map(|(alert, _)| alert).collect();
    for entry in entries {
        let name = entry.lines().next().unwrap();
        assert!(known.contains(name), "no alert leads to {name} in grafana/runbook.md");
    }
}
