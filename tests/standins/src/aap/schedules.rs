//! Recurrence rules of schedules, as far as one-shot and plain repeating rules go.

use jiff::{SignedDuration, Span, Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// Length of one step of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Frequency {
    /// Every so many seconds.
    Secondly,
    /// Every so many minutes.
    Minutely,
    /// Every so many hours.
    Hourly,
    /// Every so many days.
    Daily,
    /// Every so many weeks.
    Weekly,
    /// Every so many months.
    Monthly,
    /// Every so many years.
    Yearly,
}

/// A rule: `DTSTART:20261121T091427Z RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=1`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Rule {
    /// First run.
    pub start: Timestamp,
    /// Zone of `DTSTART`, `UTC` for `Z`.
    pub timezone: String,
    /// Step.
    pub frequency: Frequency,
    /// Steps between runs.
    pub interval: i64,
    /// Number of runs.
    pub count: Option<i64>,
    /// No run after this.
    pub until: Option<Timestamp>,
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// The message of the controller's validation.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut start = None;
        let mut rule = None;
        for part in text.split_whitespace() {
            if let Some(value) = part.strip_prefix("DTSTART") {
                start = Some(date_time(value).ok_or("Valid DTSTART required in rrule. Value should start with: DTSTART:YYYYMMDDTHHMMSSZ")?);
            } else if let Some(value) = part.strip_prefix("RRULE:") {
                if rule.replace(value).is_some() {
                    return Err("Multiple RRULE is not supported.".to_owned());
                }
            } else {
                return Err(format!("rrule parsing failed validation: unknown part '{part}'"));
            }
        }
        let (start, timezone) = start.ok_or("Valid DTSTART required in rrule. Value should start with: DTSTART:YYYYMMDDTHHMMSSZ")?;
        let rule = rule.ok_or("RRULE required in rrule.")?;
        let (mut frequency, mut interval, mut count, mut until) = (None, None, None, None);
        for (key, value) in rule.split(';').filter_map(|pair| pair.split_once('=')) {
            let number = || value.parse::<i64>().map_err(|_| format!("rrule parsing failed validation: invalid '{key}': {value}"));
            match key {
                "FREQ" => {
                    let word = serde_json::Value::String(value.to_owned());
                    frequency = serde_json::from_value(word).ok();
                }
                "INTERVAL" => interval = Some(number()?),
                "COUNT" => count = Some(number()?),
                "UNTIL" => until = date_time(&format!(":{value}")).map(|(time, _)| time),
                other => return Err(format!("{other} not supported.")),
            }
        }
        let interval = interval.filter(|steps| *steps > 0).ok_or("INTERVAL required in rrule.")?;
        let frequency = frequency.ok_or("rrule parsing failed validation: invalid 'FREQ'")?;
        if count.is_some_and(|count| count > 999) {
            return Err("COUNT > 999 is unsupported.".to_owned());
        }
        Ok(Self { start, timezone, frequency, interval, count, until })
    }

    /// The run number `index`, from 0.
    fn run(&self, index: i64) -> Option<Timestamp> {
        if self.count.is_some_and(|count| index >= count) {
            return None;
        }
        let steps = index.checked_mul(self.interval)?;
        let time = match self.unit() {
            Some(unit) => self.start.checked_add(unit.checked_mul(i32::try_from(steps).ok()?)?).ok()?,
            None => {
                let span = if self.frequency == Frequency::Yearly { Span::new().try_years(steps) } else { Span::new().try_months(steps) };
                self.start.to_zoned(TimeZone::UTC).checked_add(span.ok()?).ok()?.timestamp()
            }
        };
        if self.until.is_some_and(|until| time > until) { None } else { Some(time) }
    }

    fn unit(&self) -> Option<SignedDuration> {
        match self.frequency {
            Frequency::Secondly => Some(SignedDuration::from_secs(1)),
            Frequency::Minutely => Some(SignedDuration::from_mins(1)),
            Frequency::Hourly => Some(SignedDuration::from_hours(1)),
            Frequency::Daily => Some(SignedDuration::from_hours(24)),
            Frequency::Weekly => Some(SignedDuration::from_hours(24 * 7)),
            Frequency::Monthly | Frequency::Yearly => None,
        }
    }

    /// The first run after `time`; `None` when there is none: a one-shot rule that starts in the past never runs.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let mut index = match self.unit() {
            Some(unit) if time > self.start => {
                let step = unit.as_secs().saturating_mul(self.interval).max(1);
                (time.as_second() - self.start.as_second()) / step
            }
            _ => 0,
        };
        loop {
            let run = self.run(index)?;
            if run > time {
                return Some(run);
            }
            index += 1;
        }
    }

    /// The last run, for rules that end.
    pub fn end(&self) -> Option<Timestamp> {
        match (self.count, self.until) {
            (Some(count), _) => self.run((count - 1).max(0)),
            (None, until) => until,
        }
    }
}

/// Reads `:20261121T091427Z` or `;TZID=Europe/Paris:20261121T091427`.
fn date_time(value: &str) -> Option<(Timestamp, String)> {
    let (zone, text) = match value.strip_prefix(";TZID=") {
        Some(rest) => rest.split_once(':')?,
        None => ("UTC", value.strip_prefix(':')?.strip_suffix('Z')?),
    };
    let time = DateTime::strptime("%Y%m%dT%H%M%S", text).ok()?;
    let zoned = time.to_zoned(TimeZone::get(zone).ok()?).ok()?;
    Some((zoned.timestamp(), zone.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn one_shot_rules_run_once_and_never_late() {
        let rule = Rule::parse("DTSTART:20261121T091427Z RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=1").unwrap();
        assert_eq!(rule.next_after(time("2026-11-21T09:14:22Z")), Some(time("2026-11-21T09:14:27Z")));
        assert_eq!(rule.next_after(time("2026-11-21T09:14:27Z")), None);
        assert_eq!(rule.next_after(time("2027-11-21T09:14:27Z")), None);
        assert_eq!(rule.end(), Some(time("2026-11-21T09:14:27Z")));
    }

    #[test]
    fn repeating_rules_go_on() {
        let rule = Rule::parse("DTSTART;TZID=Europe/Paris:20260101T010000 RRULE:FREQ=DAILY;INTERVAL=2").unwrap();
        assert_eq!(rule.next_after(time("2026-01-01T00:00:00Z")), Some(time("2026-01-03T00:00:00Z")));
        assert_eq!(rule.next_after(time("2026-03-01T12:00:00Z")), Some(time("2026-03-02T00:00:00Z")));
        assert_eq!(rule.end(), None);
    }

    #[test]
    fn incomplete_rules_are_refused() {
        for (rule, message) in [
            ("RRULE:FREQ=DAILY;INTERVAL=1", "Valid DTSTART required"),
            ("DTSTART:20260101T000000Z", "RRULE required in rrule."),
            ("DTSTART:20260101T000000Z RRULE:FREQ=DAILY;COUNT=1", "INTERVAL required in rrule."),
        ] {
            assert!(Rule::parse(rule).unwrap_err().starts_with(message), "{rule}");
        }
    }
}
