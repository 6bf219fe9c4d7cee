//! Templates and inventories by name or number.

use serde::Deserialize;

use super::{
    Aap, Answer, Call, Inventory, Meta, Result, Template,
    error::{ErrorKind, short},
    types::{Summary, or_default},
};
use crate::api::shared::NameOrId;

#[expect(clippy::struct_excessive_bools, reason = "the API has them")]
#[derive(Deserialize)]
struct RawTemplate {
    id: i64,
    name: String,
    #[serde(default)]
    inventory: Option<i64>,
    #[serde(default)]
    project: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    playbook: String,
    #[serde(default, deserialize_with = "or_default")]
    job_type: String,
    ask_limit_on_launch: bool,
    ask_variables_on_launch: bool,
    #[serde(default, deserialize_with = "or_default")]
    ask_inventory_on_launch: bool,
    #[serde(default, deserialize_with = "or_default")]
    ask_job_type_on_launch: bool,
    #[serde(default, deserialize_with = "or_default")]
    survey_enabled: bool,
    #[serde(default)]
    job_slice_count: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    allow_simultaneous: bool,
    #[serde(default, deserialize_with = "or_default")]
    job_tags: String,
    #[serde(default, deserialize_with = "or_default")]
    skip_tags: String,
    #[serde(default, deserialize_with = "or_default")]
    timeout: i64,
    #[serde(default, deserialize_with = "or_default")]
    summary_fields: Summary,
}

#[derive(Deserialize)]
struct LaunchPage {
    #[serde(default, deserialize_with = "or_default")]
    variables_needed_to_start: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    passwords_needed_to_start: Vec<String>,
}

#[derive(Deserialize)]
struct RawInventory {
    id: i64,
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    total_hosts: i64,
    #[serde(default, deserialize_with = "or_default")]
    summary_fields: Summary,
}

impl Aap {
    /// A job template, with what its launch page says. A name that several organizations use is an error that names them.
    pub async fn template(&self, which: &NameOrId) -> Result<Template> {
        let raw: Answer<RawTemplate> = match which {
            NameOrId::Id(id) => {
                let action = format!("reading job template {id}");
                self.read(Call::get("job_templates/{id}/", action).id(*id)).await?
            }
            NameOrId::Name(name) => {
                let call = Call::get("job_templates/", format!("looking for job template \"{name}\""));
                let label = |t: &RawTemplate| (t.id, organization(&t.summary_fields));
                self.only(call, "job template", name, label).await?
            }
        };
        let raw = raw.value;
        let id = raw.id;
        let action = format!("reading the launch page of job template {id}");
        let page: Answer<LaunchPage> = self.read(Call::get("job_templates/{id}/launch/", action).id(id)).await?;
        Ok(page.map(|page| raw.with(page)))
    }

    /// An inventory. A name that several organizations use is an error that names them.
    pub async fn inventory(&self, which: &NameOrId) -> Result<Inventory> {
        let raw: Answer<RawInventory> = match which {
            NameOrId::Id(id) => {
                let action = format!("reading inventory {id}");
                self.read(Call::get("inventories/{id}/", action).id(*id)).await?
            }
            NameOrId::Name(name) => {
                let call = Call::get("inventories/", format!("looking for inventory \"{name}\""));
                let label = |i: &RawInventory| (i.id, organization(&i.summary_fields));
                self.only(call, "inventory", name, label).await?
            }
        };
        Ok(raw.map(|raw| Inventory {
            id: raw.id,
            organization: organization(&raw.summary_fields),
            name: raw.name,
            kind: raw.kind,
            total_hosts: raw.total_hosts,
        }))
    }

    /// The only object of a name.
    async fn only<T: serde::de::DeserializeOwned>(
        &self,
        call: Call,
        kind: &str,
        name: &str,
        label: impl Fn(&T) -> (i64, Option<String>),
    ) -> Result<T> {
        let action = call.action.clone();
        let found = self.read_all::<T>(call.query("name", name).query("order_by", "id").query("page_size", 25)).await?;
        let date = found.date;
        let error = |kind| Err(Meta { action, date, ..Meta::default() }.error(kind));
        let mut rows = found.value;
        if rows.len() > 1 {
            let places: Vec<String> = rows
                .iter()
                .take(8)
                .map(|row| {
                    let (id, organization) = label(row);
                    format!("{id} in organization \"{}\"", short(&organization.unwrap_or_default()))
                })
                .collect();
            return error(ErrorKind::NotUnique {
                message: format!(
                    "give a number instead of the name: {} are called \"{}\" ({})",
                    rows.len(),
                    short(name),
                    places.join(", ")
                ),
            });
        }
        match rows.pop() {
            Some(value) => Ok(Answer { value, date }),
            None => error(ErrorKind::NotFound {
                message: format!("no {kind} has the name \"{}\", or the user of these credentials may not see it", short(name)),
            }),
        }
    }
}

impl RawTemplate {
    fn with(self, page: LaunchPage) -> Template {
        let inventory = self.summary_fields.inventory.as_ref();
        Template {
            id: self.id,
            organization: organization(&self.summary_fields),
            inventory: self.inventory,
            inventory_name: inventory.map(|i| i.name.clone()),
            name: self.name,
            project: self.project,
            playbook: self.playbook,
            job_type: self.job_type,
            ask_limit: self.ask_limit_on_launch,
            ask_variables: self.ask_variables_on_launch,
            ask_inventory: self.ask_inventory_on_launch,
            ask_job_type: self.ask_job_type_on_launch,
            survey_enabled: self.survey_enabled,
            survey_required: page.variables_needed_to_start,
            passwords_needed: page.passwords_needed_to_start,
            job_slice_count: self.job_slice_count.unwrap_or(1),
            allow_simultaneous: self.allow_simultaneous,
            job_tags: self.job_tags,
            skip_tags: self.skip_tags,
            timeout: self.timeout,
            can_launch: self.summary_fields.user_capabilities.start,
        }
    }
}

fn organization(summary: &Summary) -> Option<String> {
    summary.organization.as_ref().map(|o| o.name.clone())
}
