// Writes the dashboard as a program whose constants have the types that Grafana publishes. The compiler then says what
// does not fit: constants, unlike values that are read, may have no key too many.
import { readFileSync, writeFileSync } from 'node:fs';

const [dashboard, folder] = process.argv.slice(2);
const { panels, annotations, ...rest } = JSON.parse(readFileSync(dashboard, 'utf8'));

// Which file has the options of each type of panel.
const KINDS = {
  bargauge: 'bargauge', stat: 'stat', 'state-timeline': 'statetimeline', table: 'table', timeseries: 'timeseries',
};
const options = (kind) => `node_modules/@grafana/schema/dist/types/raw/composable/${KINDS[kind]}/panelcfg/x/types.gen.js`;
const constant = (type, value) => `const _${count++}: Json<${type}> = ${JSON.stringify(value, null, 1)};`;
let count = 0;

const lines = [
  "import type { AnnotationQuery, Dashboard, DataQuery, Panel, RowPanel } from '@grafana/schema';",
  // An enumeration is written as its text.
  'type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;',
  // What a query for Prometheus has besides; Grafana publishes it only as a part of its program.
  "type Query = DataQuery & { expr: string; legendFormat: string; instant?: boolean; range?: boolean; format?: 'table' };",
  'type Annotation = AnnotationQuery & { expr: string; step: string; titleFormat: string };',
  constant('Dashboard', rest),
  ...annotations.list.map((it) => constant('Annotation', it)),
];
for (const panel of panels) {
  if (panel.type === 'row') {
    lines.push(constant('RowPanel', panel));
    continue;
  }
  if (!(panel.type in KINDS)) throw new Error(`panels of type ${panel.type} are not known here`);
  const { targets, options: chosen, fieldConfig, ...outside } = panel;
  const { custom, ...defaults } = fieldConfig.defaults;
  lines.push(
    constant('Panel', { ...outside, fieldConfig: { ...fieldConfig, defaults } }),
    constant(`import('./${options(panel.type)}').Options`, chosen),
    ...targets.map((it) => constant('Query', it)),
  );
  if (custom) lines.push(constant(`import('./${options(panel.type)}').FieldConfig`, custom));
}
writeFileSync(`${folder}/dashboard.ts`, `${lines.join('\n')}\n`);
