/** Classes that break each of the {@link qlora4j.cli.HouseRules} once. */
package qlora4j.cli.brokenhouse;
