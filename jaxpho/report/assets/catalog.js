"use strict";

jaxpho.start(() => {
  const place = document.getElementById("page");
  const match = decodeURIComponent(location.hash).match(/^#flag=(\w+)$/);
  place.replaceChildren(jaxpho.el("h1", {}, "Catalogue"));
  sourceTable.make(place, { flag: match ? match[1] : "" });
});
