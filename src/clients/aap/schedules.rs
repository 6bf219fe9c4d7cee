//! One-shot schedules: the controller accepts one of a name per template, so a launch by schedule happens at most once however often it is asked for.

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use super::{
    Aap, Answer, Call, CreateSchedule, Job, Result, Schedule, ScheduleRequest,
    error::{Doubt, DoubtCause, ErrorKind},
    types::RawJob,
};

impl Aap {
    /// Schedules of exactly this name, over all templates the user may see.
    pub async fn schedules_named(&self, name: &str) -> Result<Vec<Schedule>> {
        let call = Call::get("schedules/", format!("looking for schedule \"{name}\""))
            .query("name", name)
            .query("order_by", "id")
            .query("page_size", 200);
        let found = self.read_all::<Schedule>(call).await?;
        Ok(found.map(|mut schedules| {
            schedules.retain(|s| s.name == name);
            schedules
        }))
    }

    /// Creates a schedule that fires once. May be repeated with the same name: the second one of a template is never made.
    ///
    /// A template that does not prompt for limit or variables makes this fail with `Refused` (a launch would have dropped them in silence).
    pub async fn create_schedule(&self, template: i64, request: &ScheduleRequest) -> Result<CreateSchedule> {
        let body = json!({
            "name": request.name,
            "description": request.description,
            "unified_job_template": template,
            "rrule": rrule(request.dtstart),
            "limit": request.limit,
            "extra_data": request.extra_data,
            "enabled": true,
        });
        let action = format!("creating schedule \"{}\"", request.name);
        let reply = match self.call(Call::write(Method::POST, "schedules/", Some(body), action)).await {
            Ok(reply) => reply,
            Err(e) if matches!(&e.kind, ErrorKind::Refused { status: 400, message } if names_a_duplicate(message)) => {
                return Ok(Answer { value: CreateSchedule::AlreadyExists, date: e.date });
            }
            Err(e) => return Err(e),
        };
        if reply.status != StatusCode::CREATED {
            let doubt =
                Doubt { cause: DoubtCause::Status(reply.status.as_u16()), detail: format!("status {} instead of 201", reply.status) };
            return Err(reply.meta.error(ErrorKind::Ambiguous(doubt)));
        }
        Ok(reply.json::<Schedule>()?.map(|s| CreateSchedule::Created(Box::new(s))))
    }

    /// Switches a schedule off: it launches nothing from now on. May be repeated.
    pub async fn disable_schedule(&self, id: i64) -> Result<Schedule> {
        let action = format!("disabling schedule {id}");
        let call = Call::write(Method::PATCH, "schedules/{id}/", Some(json!({"enabled": false})), action).id(id);
        let reply = self.call(call).await?;
        let meta = reply.meta.clone();
        let schedule = reply.json::<Schedule>()?;
        if schedule.value.enabled {
            return Err(meta.error(ErrorKind::malformed("the schedule is still enabled")));
        }
        Ok(schedule)
    }

    /// The oldest schedules whose names begin with `prefix`: one page of them.
    pub async fn oldest_schedules(&self, prefix: &str) -> Result<Vec<Schedule>> {
        let call = Call::get("schedules/", format!("looking for schedules named \"{prefix}…\""))
            .query("name__startswith", prefix)
            .query("order_by", "id")
            .query("page_size", 50);
        // the first page is all that is wanted
        Ok(self.read_some::<Schedule>(call, 1).await?.map(|(schedules, _)| schedules))
    }

    /// Deletes a schedule; one that is gone is as good.
    pub async fn delete_schedule(&self, id: i64) -> Result<()> {
        let call = Call::write(Method::DELETE, "schedules/{id}/", None, format!("deleting schedule {id}")).id(id);
        match self.call(call).await {
            Ok(reply) => Ok(Answer { value: (), date: reply.meta.date }),
            Err(error) if error.is_not_found() => Ok(Answer { value: (), date: error.date }),
            Err(error) => Err(error),
        }
    }

    /// A schedule.
    pub async fn schedule(&self, id: i64) -> Result<Schedule> {
        self.read(Call::get("schedules/{id}/", format!("reading schedule {id}")).id(id)).await
    }

    /// Everything that schedules of this name have launched, oldest first.
    pub async fn jobs_of_schedule(&self, name: &str) -> Result<Vec<Job>> {
        let call = Call::get("unified_jobs/", format!("looking for jobs of schedule \"{name}\""))
            .query("schedule__name", name)
            .query("order_by", "id")
            .query("page_size", 50)
            .limit(super::LARGE);
        let rows = self.read_all::<RawJob>(call).await?;
        Ok(rows.map(|rows| rows.into_iter().map(Job::from).collect()))
    }
}

/// A rule that fires once, at `start`.
fn rrule(start: Timestamp) -> String {
    format!("DTSTART:{} RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=1", start.strftime("%Y%m%dT%H%M%SZ"))
}

/// The two ways the controller says that the name is taken: by its own check, and by the constraint of its database when two requests race.
fn names_a_duplicate(message: &str) -> bool {
    message.contains("already exists") || message.contains("duplicate key value violates unique constraint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_fire_once() {
        let start = "2026-11-21T09:14:27.9Z".parse().unwrap();
        assert_eq!(rrule(start), "DTSTART:20261121T091427Z RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=1");
    }

    #[test]
    fn both_texts_of_a_taken_name_are_known() {
        assert!(names_a_duplicate("Schedule with this Unified job template and Name already exists."));
        assert!(names_a_duplicate("duplicate key value violates unique constraint \"unique_schedule\""));
        assert!(!names_a_duplicate("limit: Field is not configured to prompt on launch."));
    }
}
