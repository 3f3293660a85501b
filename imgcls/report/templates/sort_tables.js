// Pressing a column name sorts the table by that column, and pressing it again reverses the order.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead button").forEach((button, column) => {
    let ascending = false;
    const key = row => {
      const cell = row.cells[column];
      return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
    };
    const compare = (first, second) => {
      const [a, b] = [key(first), key(second)];
      const numbers = typeof a === "number" && typeof b === "number";
      return numbers ? a - b : String(a).localeCompare(String(b));
    };
    button.onclick = () => {
      ascending = !ascending;
      const body = table.tBodies[0];
      const sorted = [...body.rows].sort((a, b) => ascending ? compare(a, b) : -compare(a, b));
      body.append(...sorted);
    };
  });
}
