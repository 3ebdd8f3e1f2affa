//! Reads the series of a relay.

pub(super) use crate::cli::admin::get;

/// Sum of the whole-numbered series of this name that carry all these labels.
pub(super) fn sum(metrics: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let values = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let carried = |label: &String| rest.trim_end_matches('}').split(',').any(|part| part == label);
        (found == name && wanted.iter().all(carried)).then(|| value.parse::<u64>().ok())?
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_over_the_labels_not_asked_for() {
        let text = "# TYPE x counter\nx{a=\"1\",b=\"p\"} 2\nx{a=\"1\",b=\"q\"} 3\nx{a=\"2\",b=\"p\"} 5\nxy 7\n";
        assert_eq!(sum(text, "x", &[("a", "1")]), 5);
        assert_eq!(sum(text, "x", &[]), 10);
        assert_eq!(sum(text, "x", &[("a", "3")]), 0);
        assert_eq!(sum(text, "xy", &[]), 7);
    }
}
